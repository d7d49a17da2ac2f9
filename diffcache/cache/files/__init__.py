"""Files on a disk: written whole, locked, sealed, allocated, mapped; nothing here knows what a store is."""
