"""The tree of errors, and how values are shown in their lines."""

from __future__ import annotations

import inspect

import pytest

from diffcache import errors
from diffcache.errors import DiffcacheError, brief, nearest

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, DiffcacheError) and value is not DiffcacheError
]


@pytest.mark.parametrize("error", CLASSES)
def test_each_error_is_a_built_in_one_too_and_says_its_line(error: type[DiffcacheError]) -> None:
    built_in = [base for base in error.__mro__ if base.__module__ == "builtins"]
    assert built_in[0] not in (Exception, BaseException, object)
    assert str(error("where: expected this, got that")) == "where: expected this, got that"
    assert error.exit_code != 0
    with pytest.raises(built_in[0]):
        raise error("line")


def test_there_are_some() -> None:
    assert len(CLASSES) >= 12


@pytest.mark.parametrize(
    ("word", "known", "line"),
    [
        ("poool", ["t", "b", "pool"], "did you mean 'pool'?"),
        ("zzz", ["t", "b", "pool"], "known: t, b, pool"),
        ("", iter(["a"]), "known: a"),
    ],
)
def test_nearest(word: str, known: list[str], line: str) -> None:
    assert nearest(word, known) == line


def test_brief() -> None:
    assert brief("a\nb") == "'a\\nb'"
    assert brief([1, 2]) == "[1, 2]"
    assert len(brief("x" * 10_000)) == 200
    assert brief("x" * 10_000).endswith("x...")
    assert brief(10**5000) == "a value of type int that is too long to show"
