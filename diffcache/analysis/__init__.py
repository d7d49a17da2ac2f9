"""Pure functions on features, predictions and results: metrics, neighbours, projections, pictures."""
