"""Caches in buckets: pushed, pulled, and what they say of themselves."""
