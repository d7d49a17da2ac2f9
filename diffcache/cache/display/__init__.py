"""Stores and caches for people: what differs, summaries, small HTML tables."""
