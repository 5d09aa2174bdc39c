"""A model that Qwix quantized keeps its scales, and only the gaps are calibrated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import edgeq
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import parse

jax = pytest.importorskip("jax")
linen = pytest.importorskip("flax.linen")
qwix = pytest.importorskip("qwix")

SAMPLES = [
    np.random.default_rng(seed).normal(size=(1, 8, 8, 3)).astype(np.float32) for seed in range(8)
]


class Network(linen.Module):  # type: ignore[misc]
    @linen.compact
    def __call__(self, image: Any) -> Any:
        x = linen.relu(linen.Conv(8, (3, 3), name="conv")(image))
        x = linen.Conv(8, (1, 1), name="point")(x) + x
        x = linen.avg_pool(x, (2, 2), (2, 2)).reshape(1, -1)
        return linen.softmax(linen.Dense(4, name="head")(x))


class Converted(NamedTuple):
    """What Qwix made of the network."""

    function: Any
    scales: set[tuple[float, ...]]
    edge_model: EdgeModel


def scales_in(jaxpr: Any) -> Iterator[tuple[float, ...]]:
    """The scale of each `quant.fake_quant` composite of a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "composite":
            attributes = {name: leaves for name, leaves, _ in eqn.params["attributes"]}
            (scale,) = attributes["scale"]
            yield tuple(np.asarray(scale.val, np.float32).tolist())
        elif "call_jaxpr" in eqn.params:
            yield from scales_in(eqn.params["call_jaxpr"].jaxpr)


@pytest.fixture(scope="module")
def converted() -> Converted:
    network, seed = Network(), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: network.init(key, SAMPLES[0]), jax.random.key(0))
    params = jax.tree_util.tree_map(
        lambda s: jax.numpy.asarray(seed.normal(size=s.shape).astype(np.float32) * 0.2),
        shapes["params"],
    )
    rules = [qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")]
    training = qwix.quantize_model(network, qwix.OdmlQatProvider(rules))
    variables = {"params": params}
    for sample in SAMPLES[:2]:
        _, seen = training.apply(variables, jax.numpy.asarray(sample), mutable=["quant_stats"])
        variables = {"params": params, **seen}
    provider = qwix.OdmlConversionProvider(rules, params, variables["quant_stats"])
    model = qwix.quantize_model(network, provider)

    def function(image: Any) -> Any:
        return model.apply({"params": params}, image)

    program = jax.make_jaxpr(function)(jax.numpy.asarray(SAMPLES[0]))
    edge_model = edgeq.export(function, SAMPLES)
    return Converted(function, set(scales_in(program.jaxpr)), edge_model)


def test_scales_of_qwix_are_found_unchanged_in_the_flatbuffer(converted: Converted) -> None:
    tensors = parse(converted.edge_model.tflite).graphs[0].tensors
    found = {t.qparams.scale for t in tensors if t.qparams is not None}
    assert len(converted.scales) >= 8
    assert converted.scales <= found
    assert not converted.edge_model.report.float_ops


def test_the_report_says_that_scales_were_kept(converted: Converted) -> None:
    assert any(
        note.endswith("tensors keep the scales that the model brought")
        for note in converted.edge_model.report.notes
    )


def test_gaps_are_calibrated() -> None:
    """One composite, around the input; all else is edgeq's."""

    def fake_quant(x: Any) -> Any:
        def body(x: Any, **_: Any) -> Any:
            return x

        attributes = {"scale": np.float32([0.05]), "zero_point": np.int64([3])}
        composite = jax.lax.composite(body, "quant.fake_quant")
        return composite(x, dtype="i8", narrow_range=False, **attributes)

    weight = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    data = np.random.default_rng(1).uniform(-6, 6, (20, 8)).astype(np.float32)
    edge_model = edgeq.export(
        lambda x: jax.nn.relu(fake_quant(x) @ weight), data, recipe="int8", inputs="int8"
    )
    port = edge_model.io.inputs[0]
    assert (np.float32(port.qparams.scale[0]), port.qparams.zero_point) == (np.float32(0.05), (3,))
    assert not edge_model.report.float_ops
    assert edge_model.report.outputs[0].sqnr_db > 25
