"""The arms of ``draws``, as a pipeline file and the command line write them."""

from __future__ import annotations

import pytest

from diffcache.config.arms import ARMS, Arm, arms
from diffcache.errors import ConfigError


def test_read() -> None:
    assert arms([1, 4, "8 flip", "fresh", "fresh flip"], "x") == ARMS
    assert arms(("16  crop_flip", "fresh"), "x") == (Arm(16, "crop_flip"), Arm(None))
    assert arms(ARMS, "x") == ARMS
    assert [arm.name for arm in ARMS] == [
        "1 stored draw",
        "4 stored draws",
        "8 stored draws, flips",
        "fresh noise",
        "fresh noise, flips",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 4], 'x: expected "fresh" among them'),
        (["fresh", 4, "4"], "x: expected values that differ"),
        (["fresh", 0], r"x\[1\]: expected stored draws, 1 to 10,000"),
        (["fresh", "10001"], "expected stored draws"),
        (["fresh", "-1"], "expected stored draws"),
        (["fresh", "²"], "expected stored draws"),
        (["fresh", "9" * 5000], "expected stored draws"),
        (["fresh", True], "expected stored draws"),
        (["fresh", 1.5], "expected stored draws"),
        (["fresh", ""], "expected stored draws"),
        (["fresh", "8 turn"], "expected stored draws"),
        (["fresh", "8 flip flip"], "expected stored draws"),
        (["fresh", "1 flip"], "draw 0, the first, is never augmented"),
        ([], "at least one value"),
    ],
)
def test_what_is_no_arm(value: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        arms(value, "x")
