"""The same trained network from every framework becomes the same int8 model."""

from __future__ import annotations

import os
from collections.abc import Iterator

import frameworks
import numpy as np
import pytest
from frameworks import HEAD, UNITS, Exported

from edgeq.fidelity import Fidelity

pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("tensorflow")
os.environ.setdefault("KERAS_BACKEND", "jax")

SQNR_DB = 17.0
WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D")

LAYERS = {
    "pytorch": "{}.0",
    "jax": "{}",
    "linen": "{}/conv",
    "nnx": "{}.conv",
    "keras on jax": "{}",
    "keras on torch": "{}",
    "keras on tensorflow": "{}",
    "saved_model": "{}",
    "tflite": "{}",
}
"""How each framework calls the layer of a unit's convolution."""


@pytest.fixture(scope="module")
def on_tensorflow() -> dict[str, Exported]:
    """What needs Keras on TensorFlow, from one process."""
    keras, saved_model = frameworks.with_keras("tensorflow", "keras", "saved_model")
    return {"keras on tensorflow": keras, "saved_model": saved_model}


@pytest.fixture(scope="module", params=LAYERS)
def framework(request: pytest.FixtureRequest) -> Iterator[tuple[str, Exported]]:
    """Name of a framework, and what came of its model."""
    name = request.param
    if name in ("keras on tensorflow", "saved_model"):
        yield name, request.getfixturevalue("on_tensorflow")[name]
    elif name == "keras on torch":
        (found,) = frameworks.with_keras("torch", "keras")
        yield name, found
    else:
        yield name, getattr(frameworks, name.partition(" ")[0])()


def test_the_same_network_becomes_the_same_int8_model(framework: tuple[str, Exported]) -> None:
    name, found = framework
    edge_model = found.edge_model
    (output,) = [tensor for tensor, _ in edge_model.float_model.output_tensors()]
    with edge_model.session() as session:
        answers = np.concatenate([session.run(row[None])[output] for row in found.data])
    fidelity = Fidelity.of(found.expected, answers)
    assert fidelity.sqnr_db > SQNR_DB, name
    assert not edge_model.report.float_ops
    assert found.expected.shape == (frameworks.SAMPLES, HEAD.shape[0])


def test_layers_have_the_frameworks_own_names(framework: tuple[str, Exported]) -> None:
    name, found = framework
    model = found.edge_model.float_model
    layers = [model.layer(op) for op in model.graph.operators if op.name in WEIGHTED]
    assert layers == [LAYERS[name].format(unit.name) for unit in UNITS]
    head = [model.layer(op) for op in model.graph.operators if op.name == "FULLY_CONNECTED"]
    assert head == ["head"]
