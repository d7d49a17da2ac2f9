"""What notebooks and prompts show of a cache: escaped, and damage said in place of raised."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from diffcache.cache import Features, open_cache
from diffcache.cache.display.text import printable
from tests.cache.toy import LARGE, create, fill


class _Checked(HTMLParser):
    """Only tables and text, every tag closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("p", "table", "thead", "tbody", "tr", "th", "td", "code"), tag
        assert all(pair == ("style", "text-align:left") for pair in attrs)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def text(source: str) -> str:
    parser = _Checked()
    parser.feed(source)
    parser.close()
    assert parser.open == []
    return parser.text


def test_what_is_shown(tmp_path: Path) -> None:
    root = tmp_path / "<b>&\x1b[31m"
    cache, store = create(root, "zarr", rows=2600, backbone="<script>x</script>")
    fill(store, leave=1)
    shown = text(cache._repr_html_())
    assert "toys/train" in shown
    assert store.fingerprint[:16] in shown
    assert "<script>x</script>" in shown
    assert "<b>&\\x1b[31m" in shown
    shown = text(store._repr_html_())
    assert f"{LARGE}1,576 of 2,600" in shown
    features = Features(store, LARGE, partial=True)
    shown = text(features._repr_html_())
    assert f"toys/train {LARGE}" in shown
    assert "2,600 x 16 x 2 x 2" in shown
    assert "missing rows1,024" in shown


def test_damage(tmp_path: Path) -> None:
    cache, store = create(tmp_path, "zarr", rows=10)
    fill(store)
    features = Features(store, LARGE)
    (store.path / "segments" / "segment-00000.json").write_text("<i>")
    store.refresh()
    assert repr(store) == f"Store(toys/train {store.fingerprint[:16]}, damaged, backbone toy-8, zarr)"
    assert "damaged: " in text(store._repr_html_())
    assert "damaged: " in text(cache._repr_html_())
    for shown in (repr(features), text(features._repr_html_())):  # they are as they were opened
        assert "10 x 16 x 2 x 2" in shown
        assert "damaged" not in shown
    assert repr(cache) == f"Cache({str(tmp_path)!r}, 1 stores)"
    (store.path / "store.json").write_text("<i>")
    assert repr(cache) == f"Cache({str(tmp_path)!r}, 0 stores, 1 damaged)"
    assert "damaged: " in text(cache._repr_html_())
    gone = open_cache(tmp_path / "other", create=True)
    (tmp_path / "other").rmdir()
    assert "0 stores" in repr(gone)
    text(gone._repr_html_())


def test_printable() -> None:
    assert printable("ö wl ☃") == "ö wl ☃"
    assert printable("a\x1b]0;t\x07\n\x9b\u202eb\udc80\t") == r"a\x1b]0;t\x07\n\x9b\u202eb\udc80\t"
    assert printable(3) == "3"
