"""The boundary between the stages: stores of features on disk, written once, mapped by readers."""

from diffcache.cache.cache import Cache, open_cache
from diffcache.cache.catalog import Segment
from diffcache.cache.checking.repair import Repair, repair_store
from diffcache.cache.checking.verify import Verification, verify_store
from diffcache.cache.exchange.convert import convert_store
from diffcache.cache.exchange.export import export_features
from diffcache.cache.exchange.importing import import_features
from diffcache.cache.features import Features
from diffcache.cache.layout import RowRange
from diffcache.cache.part import Part
from diffcache.cache.receipts import Receipt
from diffcache.cache.samples import Samples, SamplesDifference, compare_samples
from diffcache.cache.store import Store
from diffcache.cache.writer import Writer

__all__ = [
    "Cache",
    "Features",
    "Part",
    "Receipt",
    "Repair",
    "RowRange",
    "Samples",
    "SamplesDifference",
    "Segment",
    "Store",
    "Verification",
    "Writer",
    "compare_samples",
    "convert_store",
    "export_features",
    "import_features",
    "open_cache",
    "repair_store",
    "verify_store",
]
