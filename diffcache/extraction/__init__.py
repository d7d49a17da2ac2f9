"""Stage one: run the frozen network once and write what its blocks give."""

from diffcache.extraction.run import Extracted, extract
from diffcache.extraction.work import RangeWork, work_left

__all__ = ["Extracted", "RangeWork", "extract", "work_left"]
