"""Small models with states, in PyTorch, and sequences for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import edgeq

STEPS, SEQUENCES = 60, 12


class GruStep(torch.nn.Module):
    """A step of a recurrent layer: `x` `(1, 16)` and the state `h_in` `(1, 32)`."""

    states, shape, step = {"h_in": "h_out"}, (1, 32), (16,)

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = torch.nn.GRUCell(16, 32), torch.nn.Linear(32, 8)

    def forward(self, x: torch.Tensor, h_in: torch.Tensor) -> dict[str, torch.Tensor]:
        h = self.cell(x, h_in)
        return {"y": self.head(h), "h_out": h}


class CausalConv(torch.nn.Module):
    """A convolution over what has been: `x` `(1, 8, 1)` and the buffer `past` `(1, 8, 4)`."""

    states, shape, step = {"past": "past_out"}, (1, 8, 4), (8, 1)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = torch.nn.Conv1d(8, 16, 5), torch.nn.Conv1d(16, 4, 1)

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> dict[str, torch.Tensor]:
        window = torch.cat([past, x], dim=2)
        return {"y": self.head(torch.relu(self.conv(window))), "past_out": window[:, :, 1:]}


class TanhRnn(torch.nn.Module):
    """A recurrent layer whose state has the scale that the kernel of TANH dictates."""

    states, shape, step = {"h_in": "h_out"}, (1, 16), (8,)

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(24, 16)

    def forward(self, x: torch.Tensor, h_in: torch.Tensor) -> dict[str, torch.Tensor]:
        h = torch.tanh(self.layer(torch.cat([3 * x, h_in], 1)))
        return {"y": 2 * h, "h_out": h}


class CacheStep(torch.nn.Module):
    """A step of attention: `x` `(1, 1, 16)`, its place `pos` `(1,)` and what came before it."""

    states, places = {"keys": "keys_out", "values": "values_out"}, 12

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(16, 16) for _ in range(3))

    def forward(
        self, x: torch.Tensor, pos: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        keys = torch.index_copy(keys, 1, pos, self.key(x))
        values = torch.index_copy(values, 1, pos, self.value(x))
        hidden = torch.where(torch.arange(self.places) <= pos, 0.0, -1e9)
        weights = torch.softmax(self.query(x) @ keys.transpose(1, 2) / 4 + hidden, -1)
        return {"y": weights @ values, "keys_out": keys, "values_out": values}

    @classmethod
    def sequences(cls) -> edgeq.Sequences:
        """Data of it."""
        rng = np.random.default_rng(0)
        xs = rng.normal(size=(12, cls.places, 1, 1, 16)).astype(np.float32)
        start = {name: np.zeros((1, cls.places, 16), np.float32) for name in cls.states}
        numbered = [[(x, np.asarray([i], np.int32)) for i, x in enumerate(steps)] for steps in xs]
        return edgeq.Sequences(numbered, cls.states, start)


def made(kind: type[Any]) -> Any:
    """A model with weights of its own."""
    torch.manual_seed(0)
    return kind().eval()


def inputs(kind: type[Any], count: int, steps: int, seed: int = 0) -> np.ndarray:
    """Inputs that change slowly, `(count, steps, ...)`."""
    noise = np.random.default_rng(seed).normal(size=(steps, count, *kind.step))
    now, found = noise[0], []
    for new in noise:
        now = 0.9 * now + 0.4 * new
        found.append(now)
    return np.stack(found, axis=1).astype(np.float32)


def sequences(
    kind: type[Any], count: int = SEQUENCES, steps: int = STEPS, seed: int = 0
) -> edgeq.Sequences:
    """Data of a model; the last inputs are loud, so that the states that come out of them have a
    range which no state that goes in has."""
    (name,) = kind.states
    start = {name: np.zeros(kind.shape, np.float32)}
    found = inputs(kind, count, steps, seed)
    found[:, -1] *= 4
    return edgeq.Sequences(list(found), kind.states, start)
