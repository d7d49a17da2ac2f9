"""Learning rates, weight decay and the loss, against direct formulas."""

import math

import pytest
import torch

from diffcache.heads import build_head
from diffcache.heads.training.optimization import build_optimizer, rate_factor, set_rates, smoothed_losses

from ..stand_in import quick

CPU = torch.device("cpu")


def _factors(steps_per_epoch=4, **values):
    config = quick("linear", **values)
    return [rate_factor(config, i, steps_per_epoch=steps_per_epoch) for i in range(config.epochs * steps_per_epoch)]


def test_cosine_falls_to_nearly_zero():
    factors = _factors(schedule="cosine", epochs=5)
    assert factors[0] == 1
    assert factors[10] == pytest.approx(0.5)
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 19 / 20)))


def test_step_multiplies_every_few_epochs():
    factors = _factors(schedule="step", epochs=7, step_epochs=3, step_factor=0.1)
    assert factors[:12] == [1.0] * 12
    assert factors[12:24] == pytest.approx([0.1] * 12)
    assert factors[24:] == pytest.approx([0.01] * 4)


def test_warm_up_rises_to_one():
    factors = _factors(schedule="constant", epochs=3, warmup_epochs=2)
    assert factors == [(i + 1) / 8 for i in range(8)] + [1.0] * 4
    cosine = _factors(schedule="cosine", epochs=3, warmup_epochs=1)
    assert cosine[3] == cosine[4] == 1
    assert _factors(epochs=2, warmup_epochs=5)[-1] < 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_smoothed_loss(smoothing):
    logits, labels = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 5
    target = torch.full((9, 5), smoothing / 5, dtype=torch.float64)
    target[torch.arange(9), labels] += 1 - smoothing
    log_shares = logits - torch.logsumexp(logits, dim=1, keepdim=True)
    expected = -(target * log_shares).sum(dim=1).mean()
    found = smoothed_losses(logits[:, None], labels, smoothing=smoothing)
    assert found.tolist() == pytest.approx([expected.item()], rel=1e-5)
    several = smoothed_losses(torch.stack([logits, 2 * logits, logits], dim=1), labels, smoothing=smoothing)
    assert several[[0, 2]].tolist() == pytest.approx([expected.item()] * 2, rel=1e-5)
    assert several[1].item() != pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("kind", ["linear", "mlp", "cnn", "attention"])
def test_only_weights_of_layers_decay(kind, optimizer):
    head = build_head(quick(kind), shape=(6, 4, 4), classes=3)
    built = build_optimizer([(head, quick(kind, optimizer=optimizer, weight_decay=0.1))], device=CPU)
    decayed, kept = built.param_groups
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0
    assert all(p.dim() in (2, 4) for p in decayed["params"])
    assert all(p.dim() in (1, 3) for p in kept["params"])
    assert sum(len(group["params"]) for group in built.param_groups) == len(list(head.parameters()))


def test_momentum_reaches_sgd():
    head = build_head(quick("linear"), shape=(6, 4, 4), classes=3)
    built = build_optimizer([(head, quick("linear", optimizer="sgd", momentum=0.8, lr=0.2))], device=CPU)
    assert built.param_groups[0]["momentum"] == 0.8
    assert built.param_groups[0]["lr"] == 0.2


def test_one_optimizer_of_several_heads_keeps_their_rates():
    configs = [quick("linear", lr=lr, weight_decay=decay) for lr, decay in ((0.1, 0.0), (0.2, 0.5))]
    heads = [(build_head(config, shape=(6, 4, 4), classes=3), config) for config in configs]
    built = build_optimizer(heads, device=CPU)
    set_rates(built, 0.5)
    found = [(group["lr"], group["weight_decay"], len(group["params"])) for group in built.param_groups]
    assert found == [(0.05, 0.0, 2), (0.1, 0.5, 1), (0.1, 0.0, 1)]
    set_rates(built, 1.0)
    assert [group["lr"] for group in built.param_groups] == [0.1, 0.2, 0.2]
