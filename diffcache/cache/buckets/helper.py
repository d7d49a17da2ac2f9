"""A process that fetches a part of an object for one that was forked, and cannot. Run with ``python -m``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from diffcache.cache.buckets.mirror import Part, open_mirror
from diffcache.errors import DiffcacheError


def main(text: str) -> str | None:
    """Fetch what a text asks for: JSON of URL, the mirror's folder, its limit, and the part; the line of an error."""
    url, root, limit, part = json.loads(text)
    try:
        open_mirror(url, root=Path(root), limit=limit).fetch(Part.from_plain(part))
    except DiffcacheError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
