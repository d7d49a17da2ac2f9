"""``python -m diffcache``."""

from diffcache.cli import main

main()
