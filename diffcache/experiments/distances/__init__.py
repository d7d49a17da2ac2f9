"""How far two sets of images lie apart in the feature space of a network.

``sides`` says what may be compared, ``space`` finds the features that both have, ``rows`` streams them, ``frechet`` is
the distance, and ``table`` the result that several commands make together.
"""
