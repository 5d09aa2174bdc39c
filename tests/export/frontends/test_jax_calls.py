"""JAX functions and Flax modules are exported as people write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgeq.converter import start_converter
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError
from edgeq.export import frontends
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.runtime.session import Session

jax = pytest.importorskip("jax")
linen = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")
jnp = jax.numpy

X, WEIGHT = (
    np.random.default_rng(seed).normal(size=size).astype(np.float32)
    for seed, size in ((0, (1, 8)), (1, (8, 4)))
)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with start_converter() as started:
        yield started


def traced(model: Any, worker: Worker, params: Any = None) -> LiteModel:
    return frontends.trace(model, None, RepDataset([X]), worker, params)


def output(model: LiteModel) -> npt.NDArray[np.float32]:
    with Session(model.tflite) as session:
        (found,) = session.run(X).values()
    return found


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_is_computed_in_float32(kind: str, worker: Worker) -> None:
    def half(weight: Any, x: Any) -> Any:
        y = jax.nn.softmax(x.astype(kind) @ weight)
        return jnp.where(y > 0.1, y, jnp.finfo(kind).min).astype(jnp.float32)

    model = traced(half, worker, jnp.asarray(WEIGHT, kind))
    weight = np.asarray(jnp.asarray(WEIGHT, kind).astype(np.float32))
    kept = np.asarray(jax.nn.softmax(X @ weight))
    np.testing.assert_allclose(output(model)[kept > 0.1], kept[kept > 0.1], rtol=1e-4)
    assert f"the model computes in {kind} in places; the file does in float32" in model.notes
    assert not model.doubts


def test_what_is_printed_is_left_out(worker: Worker) -> None:
    def printing(x: Any) -> Any:
        jax.debug.print("{}", x.sum())
        return x * 2

    np.testing.assert_allclose(output(traced(printing, worker)), X * 2)


def test_variables_of_linen_may_be_parameters_alone_or_bound(worker: Worker) -> None:
    module = linen.Dense(4)
    variables = {"params": {"kernel": WEIGHT, "bias": np.ones(4, np.float32)}}
    for model, params in ((module, variables["params"]), (module.bind(variables), None)):
        np.testing.assert_allclose(output(traced(model, worker, params)), X @ WEIGHT + 1, rtol=1e-4)


class Kept(nnx.Module):
    """Its outputs depend on the calls before; what it counts does not matter to them."""

    def __init__(self, reads: bool) -> None:
        self.last, self.count = nnx.Variable(jnp.ones((1, 8))), nnx.Variable(jnp.zeros(()))
        self.reads = reads

    def __call__(self, x: Any) -> Any:
        self.count[...] += 1
        before = self.last[...]
        self.last[...] = x
        return x + before if self.reads else x * 2


@pytest.mark.parametrize("reads", [True, False])
def test_what_a_module_keeps_between_calls_is_input_and_output(reads: bool, worker: Worker) -> None:
    model, module = traced(Kept(reads), worker), Kept(reads)
    assert model.states == (("last_in", "last_out"),) * reads
    assert not model.doubts
    with Session(model.tflite) as session:
        run = session.stream(dict(model.states)).run if reads else session.run
        for step in range(3):
            (found,) = run(X + step).values()
            np.testing.assert_allclose(found, module(X + step), atol=1e-5)


class Caching(linen.Module):  # type: ignore[misc]
    """Keeps what it has seen in variables of two collections."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        count = self.variable("cache", "count", lambda: jnp.zeros((), jnp.int32))
        seen = self.variable("cache", "seen", lambda: jnp.full((4, 8), 0.5))
        unread = self.variable("statistics", "unread", lambda: jnp.zeros(()))
        seen.value = seen.value.at[count.value].set(x[0])
        count.value, unread.value = count.value + 1, unread.value + 1
        return linen.Dense(4)(seen.value.mean(0, keepdims=True))


def test_what_a_linen_module_keeps_is_input_and_output(worker: Worker) -> None:
    module = Caching()
    variables = module.init(jax.random.key(0), X)
    variables = {
        **variables,
        "cache": {"count": jnp.zeros((), jnp.int32), "seen": jnp.ones((4, 8))},
    }
    model = traced(module, worker, variables)
    assert dict(model.states) == {
        "cache_count_in": "cache_count_out", "cache_seen_in": "cache_seen_out",
    }  # fmt: skip
    with Session(model.tflite) as session:
        stream = session.stream(dict(model.states))
        for step in range(3):
            expected, behind = module.apply(variables, X + step, mutable=["cache", "statistics"])
            variables = {**variables, **behind}
            (found,) = stream.run(X + step).values()
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_inputs_may_be_in_dicts(worker: Worker) -> None:
    def scaled(shift: Any, batch: Any) -> Any:
        return batch["x"] @ WEIGHT * batch["more"]["scale"] + shift

    scale, shift = np.full((1, 1), 3, np.float32), np.full((1, 4), 2, np.float32)
    sample = (shift, {"x": X, "more": {"scale": scale}})
    model = frontends.trace(scaled, None, RepDataset([sample]), worker)
    assert {name for name, _ in model.input_tensors()} == {"shift", "batch_x", "batch_more_scale"}
    named = {"batch": sample[1], "shift": shift}
    for item in (sample, named):
        (arrays,) = RepDataset([item]).samples(input_specs(model))
        with Session(model.tflite) as session:
            (found,) = session.run(list(arrays)).values()
        np.testing.assert_allclose(found, X @ WEIGHT * 3 + 2, rtol=1e-4)


def test_places_made_of_numbers_may_lie_outside(worker: Worker) -> None:
    def warped(x: Any) -> Any:
        places = x[0, 4:, None] * jnp.asarray([3.0, 5.0])
        return jax.scipy.ndimage.map_coordinates(x, [jnp.zeros_like(places), places], 1)

    found, wanted = output(traced(warped, worker)), np.asarray(warped(X))
    assert np.any(wanted == 0)
    assert np.any(wanted != 0)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_text_is_said_to_be_none_of_the_runtimes(worker: Worker) -> None:
    with pytest.raises(DataError, match="input 'x' is text, and the runtime has numbers alone"):
        frontends.trace(lambda x: x, np.array(["a"]), RepDataset([X]), worker)
