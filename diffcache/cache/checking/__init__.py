"""What is wrong with a store, found by reading all of it, and put right."""
