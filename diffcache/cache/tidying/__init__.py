"""What may be removed from a cache: stores, arrays, leftovers."""
