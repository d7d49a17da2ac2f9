"""Run folders: what one holds, written and read."""
