"""Heads of one kind as one model: their parameters side by side, each batch read once for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from diffcache.heads.layers import LinearHead


class Stack:
    """Heads that are shown the same rows.

    The parameters of all become one tensor each, (K, ...), and those of a head views of its own slice, so that a
    head's module, its optimiser and its state dict go on as if it were alone. A stack of one is the head itself.

    Args:
        heads: modules of one architecture, on one device.
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        self.heads = tuple(heads)
        self._stacked: dict[str, Tensor] = {}
        self._own: dict[str, list[nn.Parameter]] = {
            name: [head.get_parameter(name) for head in heads] for name, _ in heads[0].named_parameters()
        }
        if len(heads) > 1:
            for name, own in self._own.items():
                together = torch.stack([parameter.detach() for parameter in own]).requires_grad_()
                for parameter, view in zip(own, together.detach().unbind(), strict=True):
                    parameter.data = view
                self._stacked[name] = together

    def __len__(self) -> int:
        return len(self.heads)

    def train(self, mode: bool = True) -> Stack:
        """As of modules."""
        for head in self.heads:
            head.train(mode)
        return self

    def logits(self, x: Tensor) -> Tensor:
        """Features (n, C, H, W) to logits (n, K, classes). Dropout drops the same values for all heads."""
        head = self.heads[0]
        if len(self) == 1:
            return head(x)[:, None]
        if isinstance(head, LinearHead):
            weight, bias = self._stacked["1.weight"], self._stacked["1.bias"]
            return F.linear(x.flatten(1), weight.flatten(0, 1), bias.flatten()).unflatten(1, bias.shape)
        with warnings.catch_warnings():
            # On a processor attention has no batched kernel: it is computed head by head, which is no slower.
            warnings.filterwarnings("ignore", message=".*batching rule for aten::_scaled_dot_product.*")
            forward = vmap(
                lambda parameters: functional_call(head, parameters, (x,)), in_dims=0, out_dims=1, randomness="same"
            )
            return forward(self._stacked)

    def backward(self, loss: Tensor) -> None:
        """Give every parameter of every head its gradient of a loss, in place of the one before."""
        if len(self) == 1:
            for (parameter,) in self._own.values():
                parameter.grad = None
            loss.backward()
            return
        gradients = torch.autograd.grad(loss, list(self._stacked.values()))
        for own, together in zip(self._own.values(), gradients, strict=True):
            # vmap leaves some of them transposed in memory, and fused optimisers take every gradient for contiguous.
            for parameter, gradient in zip(own, together.contiguous().unbind(), strict=True):
                parameter.grad = gradient
