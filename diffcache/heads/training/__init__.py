"""How heads are trained: many at once, by steps or by a fit, with a state to go on from."""
