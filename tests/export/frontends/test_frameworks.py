"""The same trained network from every framework becomes the same int8 model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frameworks
import keras_models
import numpy as np
import pytest
from frameworks import HEAD, UNITS, Exported

from edgeq.fidelity.sqnr import Fidelity

pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("tensorflow")

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
def on_tensorflow(run_folder: Path) -> dict[str, Any]:
    """What needs TensorFlow, from one process: importing it takes longer than most exports."""
    jobs = ("right", "wrong", "open_sizes", "looped", "near", "own_forms")
    own = (f"tensorflow_models:{job}" for job in jobs)
    shared = ("recurrent", "with_gaps", "half", "kept")
    names = ("keras", "saved_model", *(f"keras_models:{job}" for job in shared), *own)
    keys = ("keras on tensorflow", "saved_model", *shared, *jobs)
    return dict(zip(keys, frameworks.with_keras(run_folder, "tensorflow", *names), strict=True))


@pytest.fixture(scope="module")
def on_torch(run_folder: Path) -> dict[str, Any]:
    """What needs Keras on PyTorch, from one process; the network is made in another."""
    return _with_torch(run_folder, "masked", "recurrent")


@pytest.fixture(scope="module")
def more_on_torch(run_folder: Path) -> dict[str, Any]:
    """What more of it the slow tests need."""
    return _with_torch(run_folder, "with_gaps", "half", "kept")


def _with_torch(folder: Path, *jobs: str) -> dict[str, Any]:
    names = (f"keras_models:{job}" for job in jobs)
    return dict(zip(jobs, frameworks.with_keras(folder, "torch", *names), strict=True))


SLOW = ("linen", "keras on torch")
"""Second ways to what others show: `nnx` of Flax, and the masked layer of Keras on PyTorch."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in LAYERS],
)
def framework(request: pytest.FixtureRequest) -> Iterator[tuple[str, Exported]]:
    """Name of a framework, and what came of its model."""
    name = request.param
    if name in ("keras on tensorflow", "saved_model"):
        yield name, request.getfixturevalue("on_tensorflow")[name]
    elif name == "keras on torch":
        (found,) = frameworks.with_keras(request.getfixturevalue("run_folder"), "torch", "keras")
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


def test_a_masked_recurrent_layer_reads_backwards(on_torch: dict[str, Any]) -> None:
    expected, found, is_as_it_was = on_torch["masked"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert is_as_it_was


@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_an_lstm_of_keras_is_one_op(backend: str, request: pytest.FixtureRequest) -> None:
    if backend == "jax":
        made = keras_models.recurrent()
    else:
        made = request.getfixturevalue(f"on_{backend}")["recurrent"]
    for name, (expected, found, _) in made.items():
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5, err_msg=name)
    counts = {name: count for name, (_, _, count) in made.items()}
    assert counts == {"both ways": 3, "states": 1, "another activation": 0}


def _made(backend: str, request: pytest.FixtureRequest, job: str) -> Any:
    """What a job of `keras_models` makes on a backend; Keras is on JAX in this process."""
    if backend == "jax":
        return getattr(keras_models, job)()
    return request.getfixturevalue("more_on_torch" if backend == "torch" else f"on_{backend}")[job]


BACKENDS = (*(pytest.param(b, marks=pytest.mark.slow) for b in ("jax", "torch")), "tensorflow")
"""Of Keras; the others show what the first does."""


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_layers_of_keras_are_ops_and_loops(
    backend: str, request: pytest.FixtureRequest
) -> None:
    made = _made(backend, request, "with_gaps")
    for name, (expected, found, _) in made.items():
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-5, err_msg=name)
    counts = {name: count for name, (_, _, count) in made.items()}
    assert counts == {"loops": 3, "ops": 2}


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_of_keras_is_computed_in_float32(
    backend: str, request: pytest.FixtureRequest
) -> None:
    made = _made(backend, request, "half")
    assert set(made) == set(keras_models.POLICIES)
    for name, (expected, found, is_as_it_was) in made.items():
        np.testing.assert_allclose(found, expected, atol=0.05, err_msg=name)
        assert is_as_it_was, name


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_keras_model_of_ones_own_keeps_its_state_in_ports(
    backend: str, request: pytest.FixtureRequest
) -> None:
    made = _made(backend, request, "kept")
    for expected, found in made:
        np.testing.assert_allclose(found, expected, atol=1e-5)


TENSORFLOW = {
    "tf.Module": (["GATHER", "MUL"], "lookup"),
    "state": (None, ""),  # the op that sets the variable computes nothing
    "tf.function": (["ADD", "GELU", "SUB"], "add"),
    "nested": (["TANH", "ADD", "MUL"], "states_0"),
    "subclassed": (["FULLY_CONNECTED", "MUL"], "inner"),
    "functional": (["CONCATENATION"], "output_0"),
    "LSTM": (None, "lstm"),
}
"""Ops of each TensorFlow model, and the layer of the first of them."""


@pytest.mark.parametrize("name", TENSORFLOW)
def test_tensorflow_model_computes_the_same(name: str, on_tensorflow: dict[str, Any]) -> None:
    model, found, expected = on_tensorflow["right"][name]
    ops, layer = TENSORFLOW[name]
    assert ops is None or [op.name for op in model.graph.operators] == ops
    assert model.layer(model.graph.operators[0]) == layer
    assert set(found) == set(expected)
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, atol=1e-5)


@pytest.mark.parametrize("name", ["branches", "int64 inside"])
def test_what_a_graph_has_for_the_machine_has_a_form(
    name: str, on_tensorflow: dict[str, Any]
) -> None:
    _, found, expected = on_tensorflow["right"][name]
    assert set(found) == set(expected)
    for output, values in expected.items():
        np.testing.assert_allclose(found[output], values, atol=1e-5, err_msg=output)


def test_inputs_keep_the_order_of_the_users_parameters(on_tensorflow: dict[str, Any]) -> None:
    model, *_ = on_tensorflow["right"]["tf.function"]
    assert [name for name, _ in model.input_tensors()] == ["left", "right"]


@pytest.mark.parametrize("name", ["tf.Module", "tf.function", "folder", "one signature"])
def test_sizes_that_a_model_leaves_open_are_noted(name: str, on_tensorflow: dict[str, Any]) -> None:
    assert on_tensorflow["open_sizes"][name] == tuple(
        f"input {each!r} may have any size along dimension {axis}; in the file it is {size}, as in "
        "the sample"
        for each, axis, size in (("x", 0, 2), ("y", 0, 1), ("y", 1, 4))
    )


def test_signatures_that_are_not_in_the_file_are_noted(on_tensorflow: dict[str, Any]) -> None:
    said = on_tensorflow["open_sizes"]["two signatures"][-1]
    assert "also has the signature 'encode', which is not in the file. Load it with" in said
    assert "{'serving_default': loaded.signatures['serving_default'], 'encode': loaded" in said


def test_what_tensorflows_converter_lacks_has_a_form(on_tensorflow: dict[str, Any]) -> None:
    for name, (found, expected) in on_tensorflow["own_forms"].items():
        if expected.dtype.kind == "f":
            assert Fidelity.of(expected, found).sqnr_db > 90, name
        else:
            np.testing.assert_array_equal(found, expected, err_msg=name)


def test_what_a_loop_leaves_without_a_size_stays_float(on_tensorflow: dict[str, Any]) -> None:
    stayed, found, expected = on_tensorflow["looped"]
    assert "its sizes are known only when the model runs" in stayed.values()
    assert not any(place.startswith("FULLY_CONNECTED") for place in stayed)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_the_trace_of_a_folder_is_held_against_what_tensorflow_computes_of_it(
    on_tensorflow: dict[str, Any],
) -> None:
    same, other = on_tensorflow["near"]
    assert same == ()
    assert len(other) == 1
    assert "is only near to the model: its output" in other[0]


def test_model_that_declares_no_shapes_gets_no_note(on_tensorflow: dict[str, Any]) -> None:
    assert on_tensorflow["right"]["tf.function"][0].notes == ()


WRONG = {
    "unsupported op": "UnsupportedOpError: Betainc at ranking/Betainc has no form in the runtime; "
    "write it with other ops, or leave it to the app that reads the outputs",
    "float64": "UnsupportedOpError: MatMul in float64 at MatMul has no form in the runtime; "
    "compute it in float32, from float32 variables",
    "no call": "ModelError: the tf.Module WithoutCall has no __call__; export the tf.function of "
    "it that computes the outputs, such as module.predict",
    "no signature": "has no signature 'serving_default'; its signatures are: double, twice. "
    "Load it with tf.saved_model.load and export one of them, or all in one file: {'double': ",
    "not built": "ModelError: the Keras model 'classifier' is not built: it has no weights yet. "
    "Call it once on an input, or model.build(input_shape), and load or train its weights",
    "wrong shape": "with inputs 'x' float32 (1, 4): ValueError: ",
    "not a model": "is a folder without a saved_model.pb; edgeq reads .tflite files and SavedModel "
    "folders",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tensorflow_model_is_said_to_be_so(name: str, on_tensorflow: dict[str, Any]) -> None:
    assert WRONG[name] in on_tensorflow["wrong"][name]
