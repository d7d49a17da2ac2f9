"""Stage one on the workers of a Dask cluster.

A task is one pass over one range of rows, with every block and pool. A worker writes what it computes, and gives back
the receipt: no feature travels. A task may run twice, or its worker die, without harm.
"""

from diffcache.extraction.distributed.job import Opener
from diffcache.extraction.distributed.workers import Workers

__all__ = ["Opener", "Workers"]
