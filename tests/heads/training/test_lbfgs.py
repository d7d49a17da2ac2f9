"""Several problems at once: each solved as if it were alone, whatever the others do."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcache.heads.training.lbfgs import Lbfgs


def quadratics(count, size, *, seed, worst=100.0):
    """Problems 1/2 (x - m)' A (x - m) with known minima m, of condition up to ``worst``."""
    generator = torch.Generator().manual_seed(seed)
    minima = torch.randn(count, size, generator=generator)
    turned = torch.linalg.qr(torch.randn(count, size, size, generator=generator)).Q
    values = torch.logspace(0, torch.log10(torch.tensor(worst)).item(), size)
    matrices = turned @ torch.diag(values) @ turned.transpose(1, 2)

    def evaluate(numbers, x):
        off = x - minima[numbers]
        gradients = (matrices[numbers] @ off[:, :, None])[:, :, 0]
        return 0.5 * (off * gradients).sum(dim=1), gradients

    return evaluate, minima


def solve(evaluate, start, iterations=200, tolerance=1e-4):
    solver = Lbfgs(start, evaluate, tolerance=tolerance)
    for _ in range(iterations):
        if not solver.active.any():
            break
        solver.iterate()
    return solver


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 5), size=st.integers(1, 12), seed=st.integers(0, 1000))
def test_finds_the_minima(count, size, seed):
    evaluate, minima = quadratics(count, size, seed=seed)
    solver = solve(evaluate, torch.zeros(count, size), tolerance=1e-4)
    assert not solver.active.any()
    # The least curvature is 1, so that no point is further from its minimum than its gradient is long.
    _, first = evaluate(torch.arange(count), torch.zeros(count, size))
    far = 1e-4 * first.abs().amax(dim=1) * size**0.5
    assert ((solver.x - minima).norm(dim=1) <= 1.01 * far + 1e-4).all()


def test_a_problem_goes_as_it_would_alone():
    evaluate, _ = quadratics(4, 8, seed=3)
    together = solve(evaluate, torch.ones(4, 8), iterations=6)
    for k in range(4):
        alone = solve(lambda numbers, x, k=k: evaluate(numbers + k, x), torch.ones(1, 8), iterations=6)
        assert torch.allclose(together.x[k], alone.x[0], atol=1e-4)
        assert together.evaluations[k] == alone.evaluations[0]


def test_what_has_converged_is_not_computed_again():
    evaluate, minima = quadratics(3, 6, seed=5)
    asked = []

    def counted(numbers, x):
        asked.append(numbers.tolist())
        return evaluate(numbers, x)

    start = torch.ones(3, 6)
    start[1] = minima[1]
    solver = Lbfgs(start, counted, tolerance=1e-4)
    while solver.active.any():
        solver.iterate()
    assert solver.converged.all()
    assert asked[0] == [0, 1, 2]
    assert all(1 not in numbers for numbers in asked[1:])
    assert solver.evaluations[1] == 1
    assert torch.equal(solver.x[1], minima[1])


def test_values_never_rise_beyond_rounding():
    def evaluate(numbers, x):
        """Flat far away and steep near 0: full steps overshoot."""
        return torch.sqrt(1 + x.square()).sum(dim=1), x / torch.sqrt(1 + x.square())

    solver = Lbfgs(torch.full((2, 3), 50.0), evaluate, tolerance=1e-5)
    values = []
    for _ in range(50):
        if solver.active.any():
            solver.iterate()
            values.append(solver.values.clone())
    assert all((b <= a * (1 + 1e-6)).all() for a, b in itertools.pairwise(values))
    assert solver.x.abs().max() < 1e-3


def test_a_value_that_is_no_number_ends_that_problem_alone():
    evaluate, minima = quadratics(2, 4, seed=1)

    def broken(numbers, x):
        values, gradients = evaluate(numbers, x)
        values[numbers == 0] = torch.nan
        gradients[numbers == 0] = torch.nan
        return values, gradients

    solver = solve(broken, torch.zeros(2, 4))
    assert not solver.active.any()
    assert solver.converged.tolist() == [False, True]
    assert torch.allclose(solver.x[1], minima[1], atol=1e-2)


def test_going_on_from_a_state_changes_nothing():
    evaluate, _ = quadratics(3, 10, seed=2, worst=1000)
    whole = solve(evaluate, torch.zeros(3, 10), iterations=20)
    half = solve(evaluate, torch.zeros(3, 10), iterations=7)
    rest = Lbfgs(torch.zeros(3, 10), evaluate, tolerance=1e-4)
    rest.load_state(half.state())
    for _ in range(13):
        if rest.active.any():
            rest.iterate()
    assert torch.equal(rest.x, whole.x)
    assert torch.equal(rest.evaluations, whole.evaluations)
    assert rest.values.tolist() == pytest.approx(whole.values.tolist())
