"""What heads are given: features by rows, their split, order, batches and scaling."""
