"""The command line: ``diffcache``. Each command is thin; the work is in the library."""

from diffcache.cli.main import main

__all__ = ["main"]
