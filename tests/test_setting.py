"""Settings and grids of them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffcache.errors import DiffcacheError, SettingError
from diffcache.setting import Pass, Setting, grid

SETTINGS = st.builds(
    Setting,
    t=st.none() | st.integers(0, 999_999),
    b=st.integers(1, 9_999),
    pool=st.integers(0, 9_999),
    draw=st.integers(0, 999_999),
)


@given(SETTINGS)
@example(Setting(999_999, 9_999, 9_999, 999_999))
def test_text_and_back(setting: Setting) -> None:
    assert Setting.parse(str(setting)) == setting
    assert Setting.parse(setting) is setting


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("t90/b24/pool2", Setting(90, 24, 2)),
        ("t0/b1/pool0", Setting(0, 1, 0, 0)),
        ("t-/b3/pool1/draw2", Setting(None, 3, 1, 2)),
        ("t90/b24/pool2/draw3", Setting(90, 24, 2, draw=3)),
    ],
)
def test_texts(text: str, setting: Setting) -> None:
    assert Setting.parse(text) == setting
    assert str(setting) == text


def test_draw_0_may_be_written() -> None:
    assert str(Setting.parse("t1/b1/pool1/draw0")) == "t1/b1/pool1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t90",
        "t90/b24",
        "t90/b0/pool2",
        "t090/b24/pool2",
        "t-1/b24/pool2",
        "t90/b24/pool2/",
        "t90/b24/pool2\n",
        " t90/b24/pool2",
        "t90/b24/pool2/draw",
        "t90/b24/pool2/draw01",
        "T90/b24/pool2",
        "b24/t90/pool2",
        "t1234567/b24/pool2",
        "t1٣/b24/pool2",  # Arabic digits
        "t90\\b24\\pool2",
    ],
)
def test_texts_of_another_form(text: str) -> None:
    with pytest.raises(SettingError, match="expected t<step>/b<block>/pool<side>, such as t90/b24/pool2"):
        Setting.parse(text)


@given(
    st.text(max_size=30)
    | st.from_regex(r"t[0-9-]{1,8}/b[0-9]{1,6}/pool[0-9]{1,6}(/draw[0-9]{0,8})?", fullmatch=True)
    | st.none()
    | st.integers()
    | st.lists(st.integers())
)
def test_any_text_is_a_setting_or_an_error(text: object) -> None:
    try:
        setting = Setting.parse(text)  # type: ignore[arg-type]
    except SettingError as error:
        assert "\n" not in str(error)
    else:
        assert str(setting) == str(text).removesuffix("/draw0")


def test_a_long_text_is_shortened_in_the_error() -> None:
    with pytest.raises(SettingError) as caught:
        Setting.parse("x" * 100_000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((-1, 1, 1), "t"),
        ((1_000_000, 1, 1), "t"),
        ((1.0, 1, 1), "t"),
        ((True, 1, 1), "t"),
        (("1", 1, 1), "t"),
        ((1, 0, 1), "b"),
        ((1, None, 1), "b"),
        ((1, 10_000, 1), "b"),
        ((1, 1, -1), "pool"),
        ((1, 1, 10_000), "pool"),
        ((1, 1, 1, -1), "draw"),
        ((1, 1, 1, None), "draw"),
        ((1, 1, 10**5000), "pool"),
    ],
)
def test_values_that_are_none(values: tuple[int, ...], name: str) -> None:
    with pytest.raises(SettingError, match=f"setting: {name} must be a whole number, ") as caught:
        Setting(*values)
    assert isinstance(caught.value, DiffcacheError)
    assert isinstance(caught.value, ValueError)


def test_order_is_by_pass_then_block_then_pool() -> None:
    texts = [
        "t-/b9/pool9",
        "t0/b2/pool1",
        "t0/b10/pool0",
        "t0/b10/pool4",
        "t0/b1/pool1/draw1",
        "t5/b1/pool1",
        "t10/b1/pool1",
    ]
    settings = [Setting.parse(text) for text in texts]
    assert sorted([*settings[3:], *settings[:3]]) == settings
    assert Setting(1, 1, 1) <= Setting(1, 1, 1) < Setting(1, 1, 2)


@given(SETTINGS, SETTINGS)
def test_order_is_total_and_keeps_passes_together(one: Setting, other: Setting) -> None:
    assert (one < other) + (other < one) + (one == other) == 1
    if one.pass_ < other.pass_:
        assert one < other


def test_pass() -> None:
    assert Setting(90, 24, 2, 3).pass_ == Pass(90, 3)
    assert str(Pass(90, 3)) == "t90/draw3"
    assert str(Pass(None)) == "t-"
    assert sorted([Pass(5), Pass(None, 1), Pass(0), Pass(None)]) == [Pass(None), Pass(None, 1), Pass(0), Pass(5)]


def test_grid() -> None:
    found = grid(t=[90, 30, 90], b=[2, 1], pool=[1], draws=2)
    assert [str(setting) for setting in found] == [
        "t30/b1/pool1",
        "t30/b2/pool1",
        "t30/b1/pool1/draw1",
        "t30/b2/pool1/draw1",
        "t90/b1/pool1",
        "t90/b2/pool1",
        "t90/b1/pool1/draw1",
        "t90/b2/pool1/draw1",
    ]
    assert grid(t=[None], b=[1], pool=[0]) == (Setting(None, 1, 0),)
    assert grid(t=[], b=[1], pool=[0]) == ()
    with pytest.raises(SettingError, match="b must be"):
        grid(t=[1], b=[0], pool=[0])
