"""Activations of PyTorch and JAX that choose between pieces: no SELECT is left, and the numbers."""

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

ROWS = np.linspace(-12, 40, 64, dtype=np.float32).reshape(2, 32)

COMPARED = {"GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL", "SELECT", "SELECT_V2"}


def rewritten(model: Any, converter: Worker) -> LiteModel:
    return rewrite(frontends.trace(model, None, RepDataset([(ROWS,)]), converter, None))


def check(model: LiteModel, expected: object, ops: list[str]) -> None:
    with Session(model.tflite, threads=1) as session:
        (found,) = session.run(ROWS).values()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=4e-6)
    names = [op.name for op in model.graph.operators]
    assert not COMPARED & set(names)
    assert names == ops or not ops


@pytest.mark.parametrize(
    ("name", "settings", "ops"),
    [
        ("ELU", {}, ["ELU"]),
        ("ELU", {"alpha": 0.5}, ["ELU", "MUL", "MUL", "ADD"]),
        ("SELU", {}, ["ELU", "MUL", "MUL", "SUB"]),
        ("CELU", {"alpha": 0.7}, ["MUL", "ELU", "MUL"]),
        ("Softplus", {}, []),
        ("Softplus", {"beta": 0.5, "threshold": 15}, []),
        ("Mish", {}, []),
    ],
)
def test_pytorch(name: str, settings: dict[str, float], ops: list[str], converter: Worker) -> None:
    torch = pytest.importorskip("torch")
    layer = getattr(torch.nn, name)(**settings).eval()
    check(rewritten(layer, converter), layer(torch.from_numpy(ROWS)).numpy(), ops)


FUNCTIONS: dict[str, tuple[Callable[[Any, Any, Any], Any], list[str]]] = {
    "elu": (lambda jax, jnp, x: jax.nn.elu(x), ["ELU"]),
    "selu": (lambda jax, jnp, x: jax.nn.selu(x), ["ELU", "MUL", "MUL", "SUB", "MUL"]),
    "celu": (lambda jax, jnp, x: jax.nn.celu(x, 0.7), ["MUL", "ELU", "MUL"]),
    "hard_tanh": (lambda jax, jnp, x: jax.nn.hard_tanh(x), ["MUL"]),
    "softplus": (lambda jax, jnp, x: jax.nn.softplus(x), []),
    "where": (lambda jax, jnp, x: jnp.where(x > 0, x, jnp.exp(x) - 1), ["ELU"]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jax(name: str, converter: Worker) -> None:
    jax, jnp = pytest.importorskip("jax"), pytest.importorskip("jax.numpy")
    function, ops = FUNCTIONS[name]
    model = rewritten(lambda x: function(jax, jnp, x), converter)
    check(model, function(jax, jnp, ROWS), ops)


KEPT = {
    "another bound": lambda torch, x: torch.where(x > 0.5, x, torch.exp(x) - 1),
    "another sum": lambda torch, x: torch.where(x > 0, x, torch.exp(x) - 0.5),
    "falling": lambda torch, x: torch.where(x > 0, x, torch.exp(-x) - 1),
    "a low threshold": lambda torch, x: torch.nn.functional.softplus(x, threshold=2),
    "a jump": lambda torch, x: torch.where(x > 1, 2.0, x),
    "numbers in place of none": lambda torch, x: torch.where(x != x, 0.0, x * 2),
    "the other pieces": lambda torch, x: torch.where(x > 0, torch.exp(x / 9) - 1, x),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_something_else_stays(name: str, converter: Worker) -> None:
    torch = pytest.importorskip("torch")

    class Chosen(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return KEPT[name](torch, x)

    model = rewritten(Chosen(), converter)
    assert COMPARED & {op.name for op in model.graph.operators}
    with Session(model.tflite, threads=1) as session:
        (found,) = session.run(ROWS).values()
    expected = Chosen()(torch.from_numpy(ROWS)).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=4e-6)
