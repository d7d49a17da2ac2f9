"""Some images of a source, as a source of their own."""

from __future__ import annotations

import pytest

from diffcache.config import SplitConfig
from diffcache.images import open_split
from diffcache.images.subset import Subset
from tests import tiny


def test_rows_are_those_of_the_source_that_were_named(tmp_path):
    world = tiny.make(tmp_path / "world")
    whole = open_split(SplitConfig(format="folder", path=world.train))
    some = Subset(whole, [5, 20])
    assert (len(some), list(some.ids)) == (2, [whole.ids[5], whole.ids[20]])
    assert some.labels.tolist() == [whole.labels[5], whole.labels[20]]
    assert not some.labels.flags.writeable
    assert some.class_names == whole.class_names
    for k, i in enumerate((5, 20)):
        assert some.content_hash(k) == some.load(k).digest == whole.content_hash(i)
        assert (some.stamp(k), some.where(k)) == (whole.stamp(i), whole.where(i))
    for outside in (-1, 2):
        with pytest.raises(IndexError):
            some.load(outside)
