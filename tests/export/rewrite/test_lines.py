"""Choices between lines that meet, of PyTorch and JAX: no choice is left, and the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.export.rewrite import rewrite
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

ROWS = np.concatenate(
    [np.linspace(-3, 3, 49), [0.0, -0.0, 0.5, -0.5, 0.1, 1e6, -1e6, np.inf, -np.inf]]
).astype(np.float32)[None]

CHOICES = {
    "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "SELECT", "SELECT_V2", "SIGN", "CAST",
}  # fmt: skip


def rewritten(model: Any, converter: Worker) -> LiteModel:
    return rewrite(frontends.trace(model, None, RepDataset([(ROWS,)]), converter, None))


def check(model: LiteModel, expected: Any) -> list[str]:
    """The ops of a model, which has the right numbers where there are any."""
    with Session(model.tflite, threads=1) as session:
        (found,) = session.run(ROWS).values()
    expected = np.where(np.isnan(expected), found, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=4e-7)
    return [op.name for op in model.graph.operators]


class Chosen:
    """A module that computes a function of torch and its input."""

    def __new__(cls, function: Callable[[Any, Any], Any]) -> Any:
        torch = pytest.importorskip("torch")

        class Module(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return function(torch, x)

        return Module().eval()


PYTORCH: dict[str, tuple[Callable[[Any, Any], Any], list[str]]] = {
    "softshrink": (lambda torch, x: torch.nn.functional.softshrink(x), []),
    "threshold at its value": (lambda torch, x: torch.nn.functional.threshold(x, 0.1, 0.1), []),
    "leaky": (lambda torch, x: torch.where(x > 0, x, 0.1 * x), ["LEAKY_RELU"]),
    "steep": (lambda torch, x: torch.where(x >= 0, x * 3, x * 1.5), ["LEAKY_RELU", "MUL"]),
    "steeper below": (lambda torch, x: torch.where(x < 0, x * 3, x), []),
    "magnitude": (lambda torch, x: torch.where(x > 0, x, -x), []),
    "gated": (lambda torch, x: x * (x > 0).float(), []),
    "gated shrink": (lambda torch, x: (x.abs() - 0.5) * (x.abs() > 0.5).float(), []),
    "shifted": (lambda torch, x: torch.where(x > 0.5, 2 * x - 1, torch.zeros_like(x)), []),
    "falling": (lambda torch, x: torch.where(x < -0.5, -x, torch.full_like(x, 0.5)), []),
    "only below": (lambda torch, x: torch.where(x < 0.5, x - 0.5, torch.zeros_like(x)), []),
    "steps of lines": (
        lambda torch, x: torch.where(
            x > 0.5, 2 * x + 1, torch.where(x < -0.5, x - 0.5, 3 * x + 0.5)
        ),
        [],
    ),
    "hard sigmoid": (
        lambda torch, x: torch.where(
            x > 2.5, torch.ones_like(x), torch.where(x < -2.5, torch.zeros_like(x), 0.2 * x + 0.5)
        ),
        [],
    ),
}


@pytest.mark.parametrize("name", PYTORCH)
def test_pytorch(name: str, converter: Worker) -> None:
    torch = pytest.importorskip("torch")
    function, ops = PYTORCH[name]
    names = check(
        rewritten(Chosen(function), converter), function(torch, torch.from_numpy(ROWS)).numpy()
    )
    assert not CHOICES & set(names)
    assert names == ops or not ops


JAX: dict[str, Callable[[Any, Any], Any]] = {
    "soft": lambda jnp, x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0),
    "where": lambda jnp, x: jnp.where(jnp.abs(x) > 0.5, jnp.where(x > 0, x - 0.5, x + 0.5), 0.0),
}


@pytest.mark.parametrize("name", JAX)
def test_jax(name: str, converter: Worker) -> None:
    jnp = pytest.importorskip("jax.numpy")
    names = check(rewritten(lambda x: JAX[name](jnp, x), converter), JAX[name](jnp, ROWS))
    assert not CHOICES & set(names)


KEPT: dict[str, Callable[[Any, Any], Any]] = {
    "a jump": lambda torch, x: torch.where(x > 0.5, x, torch.zeros_like(x)),
    "a point": lambda torch, x: torch.sign(x) * torch.sign(x),
    "a curve": lambda torch, x: torch.where(x > 0, x * x, torch.zeros_like(x)),
    "of another tensor": lambda torch, x: torch.where(x > 0, x.flip(-1), torch.zeros_like(x)),
    "three kinks": lambda torch, x: torch.where(
        x > 0.5, x - 0.5, torch.where(x < -0.5, -0.5 - x, 0.5 - torch.where(x > 0, x, -x))
    ) * torch.where(x > 1, x, torch.ones_like(x)),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_what_is_something_else_stays(name: str, converter: Worker) -> None:
    torch = pytest.importorskip("torch")
    expected = KEPT[name](torch, torch.from_numpy(ROWS)).numpy()
    names = check(rewritten(Chosen(KEPT[name]), converter), expected)
    assert CHOICES & set(names)
