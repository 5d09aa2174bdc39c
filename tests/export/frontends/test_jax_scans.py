"""Loops of JAX: an LSTM however it is written becomes one op, anything else its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgeq
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

jax = pytest.importorskip("jax")
linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
jnp = jax.numpy

Array = npt.NDArray[Any]
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
STEPS, BATCH, WIDTH, INPUTS = 4, 2, 5, 3


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


WEIGHTS = {"in": normal(INPUTS, 4 * WIDTH), "own": normal(WIDTH, 4 * WIDTH), "bias": normal(20)}


def joined(params: Any, carry: Any, x: Any) -> Any:
    """Gates in an order of its own, of which three are squashed at once."""
    state, cell = carry
    gates = x @ params["in"] + state @ params["own"] + params["bias"]
    squashed, new = jax.nn.sigmoid(gates[:, : 3 * WIDTH]), jnp.tanh(gates[:, 3 * WIDTH :])
    shown, kept, open_in = jnp.split(squashed, 3, -1)
    cell = kept * cell + open_in * new
    state = shown * jnp.tanh(cell)
    return (state, cell), state


def cell_first(params: Any, carry: Any, x: Any) -> Any:
    (state, cell), out = joined(params, carry[::-1], x)
    return (cell, state), (out, out)


def reading_the_cell(params: Any, carry: Any, x: Any) -> Any:
    """With a peephole, which the op of the runtime would need weights for."""
    return joined(params, carry, x + 0.1 * carry[1][:, :INPUTS])


def showing_cells(params: Any, carry: Any, x: Any) -> Any:
    carry, _ = joined(params, carry, x)
    return carry, carry[1]


def clipped(params: Any, carry: Any, x: Any) -> Any:
    (state, cell), out = joined(params, carry, x)
    return (state, jnp.clip(cell, -0.5, 0.5)), out


def with_a_gate(params: Any, carry: Any, x: Any) -> Any:
    carry, out = joined(params, carry, x)
    return carry, out * jax.nn.sigmoid(params["bias"][0])


def bounded(params: Any, carry: Any, x: Any) -> Any:
    """Far beyond what is tried."""
    (state, cell), out = joined(params, carry, x)
    return (state, jnp.clip(cell, -50, 50)), out


def scanned(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    def model(params: Any, x: Any) -> Any:
        zeros = jnp.zeros((BATCH, WIDTH))
        carry, rows = jax.lax.scan(lambda c, r: step(params, c, r), (zeros, zeros), x, **options)
        return [*carry, rows]

    return model


def computed_weights(params: Any, x: Any) -> Any:
    return scanned(joined)({**params, "own": params["own"] * jnp.cos(x.mean())}, x)


SCANS = {
    "one sigmoid": (scanned(joined), 1),
    "cell first": (scanned(cell_first), 1),
    "backwards": (scanned(joined, reverse=True), 1),
    "peephole": (scanned(reading_the_cell), 0),
    "cells as outputs": (scanned(showing_cells), 0),
    "clipped": (scanned(clipped), 0),
    "bounded": (scanned(bounded), 0),
    "a gate of one number": (scanned(with_a_gate), 0),
    "computed weights": (computed_weights, 0),
}


@pytest.mark.parametrize(("model", "count"), SCANS.values(), ids=SCANS)
def test_a_scan_that_is_an_lstm_is_one_op(
    model: Callable[..., Any], count: int, converter: Worker
) -> None:
    x = normal(STEPS, BATCH, INPUTS)
    traced = frontends.trace(model, None, RepDataset([x]), converter, WEIGHTS)
    check_same(traced, jax.tree_util.tree_leaves(model(WEIGHTS, x)), x)
    assert [op.name for op in traced.graph.operators].count(LSTM) == count


class Linen(linen.Module):  # type: ignore[misc]
    @linen.compact
    def __call__(self, x: Any) -> Any:
        forwards = linen.RNN(linen.LSTMCell(8), name="forwards")
        backwards = linen.RNN(linen.OptimizedLSTMCell(8), name="backwards")
        both = linen.Bidirectional(forwards, backwards)(x)
        return linen.Dense(3)(both[:, -1])


def test_lstms_of_linen_are_ops_of_their_layers(converter: Worker) -> None:
    x, module = normal(1, 6, 8), Linen()
    variables = module.init(jax.random.key(0), x)
    data = [normal(1, 6, 8, seed=i) for i in range(8)]
    edge_model = edgeq.export(module, data, params=variables)
    model = edge_model.float_model
    check_same(model, [module.apply(variables, x)], x)
    layers = [model.layer(op) for op in model.graph.operators if op.name == LSTM]
    assert sorted(layers) == ["Bidirectional_0/backwards", "Bidirectional_0/forwards"]
    assert edge_model.report.outputs[0].sqnr_db > 20


def test_an_lstm_of_nnx_is_one_op(converter: Worker) -> None:
    module = nnx.RNN(nnx.OptimizedLSTMCell(INPUTS, WIDTH, rngs=nnx.Rngs(0)))
    x = normal(1, STEPS, INPUTS)
    traced = frontends.trace(module, None, RepDataset([x]), converter)
    check_same(traced, [module(x)], x)
    assert [op.name for op in traced.graph.operators].count(LSTM) == 1


def check_same(model: LiteModel, expected: list[Any], x: Array) -> None:
    with Session(model.tflite, threads=1) as session:
        session.invoke([x])
        for found, wanted in zip(session.outputs(), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-4)


class Celled(linen.Module):  # type: ignore[misc]
    """A layer of a cell, from the last step to the first."""

    cell: Any

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.RNN(self.cell, reverse=True, keep_order=True)(x)


@pytest.mark.parametrize(
    ("cell", "count"), [(linen.GRUCell(5), 1), (linen.SimpleCell(5), 1), (linen.MGUCell(5), 0)],
    ids=lambda value: getattr(type(value), "__name__", ""),
)  # fmt: skip
def test_a_scan_that_is_another_layer_is_a_loop(cell: Any, count: int, converter: Worker) -> None:
    x, module = normal(1, 9, 4), Celled(cell)
    variables = module.init(jax.random.key(0), x)
    noise = iter(range(100))
    variables = jax.tree.map(lambda a: a + 0.3 * normal(*a.shape, seed=next(noise)), variables)
    traced = frontends.trace(module, None, RepDataset([x]), converter, variables)
    check_same(traced, [module.apply(variables, x)], x)
    assert [op.name for op in traced.graph.operators].count("WHILE") == count
