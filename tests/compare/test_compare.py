"""Two models on the same data, and metrics of one: numbers, forms of input, and what is refused."""

from __future__ import annotations

import json
import math
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from one_op import OneOp, Step, Value

import edgeq
from edgeq import DataError, ModelError, RecipeError, VerificationError, demo
from edgeq.data.held_out import HeldOut
from edgeq.data.input_spec import InputSpec
from edgeq.data.labels import Labels
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.export.edge_model import EdgeModel
from edgeq.fidelity import metrics
from edgeq.flatbuffer import pack, schema, unpack
from edgeq.model import LiteModel
from edgeq.report.comparison import Comparison
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]

COUNT = 60
IMAGES = demo.load_data().test[:COUNT]
LABELS = demo.load_data().labels[:COUNT]
TOP: dict[str, Any] = {"accuracy": "accuracy", "top5": "top5"}


def logits(tflite: bytes) -> Array:
    """`(COUNT, 10)`, one run at a time."""
    with Session(tflite, threads=1) as session:
        return np.concatenate([next(iter(session.run(image[None]).values())) for image in IMAGES])


def own_metric(outputs: Array, targets: Array) -> float:
    """The mean of the right class's logit."""
    return float(outputs[np.arange(len(targets)), targets].mean())


@pytest.fixture(scope="module")
def compared(exported: EdgeModel) -> Comparison:
    chosen = {**TOP, "own": own_metric}
    return edgeq.compare(exported, exported, IMAGES, labels=LABELS, metrics=chosen)


def test_the_numbers_are_those_of_plain_numpy(compared: Comparison, exported: EdgeModel) -> None:
    before, after = logits(exported.float_model.tflite), logits(exported.tflite)
    error = (before - after).astype(np.float64)
    (output,) = compared.outputs
    assert compared.samples == COUNT
    assert output.name == exported.io.outputs[0].name
    noise = np.square(error).sum() / np.square(before.astype(np.float64)).sum()
    assert output.sqnr_db == pytest.approx(-10 * math.log10(noise))
    assert output.cosine == pytest.approx(
        np.sum(before * after) / np.linalg.norm(before) / np.linalg.norm(after)
    )
    assert output.mean_error == pytest.approx(np.abs(error).mean())
    assert output.largest_error == np.abs(error).max()
    assert output.top1_agreement == (before.argmax(-1) == after.argmax(-1)).mean()
    sets = [np.argsort(-scores, axis=1, kind="stable")[:, :5] for scores in (before, after)]
    shared = [len({*a.tolist()} & {*b.tolist()}) for a, b in zip(*sets, strict=True)]
    assert output.top5_agreement == sum(shared) / (5 * COUNT)
    accuracy, top5, own = (compared.metrics[name] for name in ("accuracy", "top5", "own"))
    assert accuracy.float_value == demo.accuracy(before, LABELS)
    assert accuracy.edge_value == demo.accuracy(after, LABELS)
    five = np.argsort(-before, axis=1, kind="stable")[:, :5]
    assert top5.float_value == (five == LABELS[:, None]).any(axis=1).mean()
    assert (own.float_value, own.edge_value) == (
        own_metric(before, LABELS), own_metric(after, LABELS),
    )  # fmt: skip
    for change in compared.metrics.values():
        assert change.difference == change.edge_value - change.float_value
        assert change.low <= change.difference <= change.high


def test_the_worst_samples_are_named(compared: Comparison, exported: EdgeModel) -> None:
    before, after = logits(exported.float_model.tflite), logits(exported.tflite)
    noise = np.square(before - after).sum(1) / np.square(before).sum(1)
    assert [w.index for w in compared.worst_samples] == np.argsort(-noise)[:10].tolist()
    for worst in compared.worst_samples:
        assert worst.sqnr_db == pytest.approx(-10 * math.log10(noise[worst.index]), rel=1e-4)
        flipped = before[worst.index].argmax() != after[worst.index].argmax()
        assert worst.top1_changed == flipped


def test_metrics_of_numbers_and_of_embeddings(exported: EdgeModel) -> None:
    before, after = logits(exported.float_model.tflite), logits(exported.tflite)
    targets = before + np.float32(0.5)
    chosen = {"mae": "mae", "mse": "mse", "near": "retrieval"}
    found = edgeq.compare(exported, exported, IMAGES, labels=targets, metrics=chosen).metrics
    assert found["mae"].float_value == pytest.approx(0.5, rel=1e-5)
    assert found["mae"].edge_value == pytest.approx(np.abs(after - targets).mean(), rel=1e-5)
    assert found["mse"].edge_value == pytest.approx(np.square(after - targets).mean(), rel=1e-5)

    def nearest(rows: Array) -> list[int]:
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return [
            max(
                (other for other in range(COUNT) if other != own),
                key=lambda o: units[own] @ units[o],
            )
            for own in range(COUNT)
        ]

    same = np.mean([a == b for a, b in zip(nearest(before), nearest(after), strict=True)])
    assert (found["near"].float_value, found["near"].edge_value) == (1.0, same)
    alone = edgeq.compare(exported, exported, IMAGES, metrics={"near": "retrieval"})
    assert alone.metrics["near"] == found["near"]


def test_a_model_is_like_itself(exported: EdgeModel) -> None:
    found = edgeq.compare(exported.tflite, exported, IMAGES, labels=LABELS)
    (output,) = found.outputs
    assert (output.sqnr_db, output.largest_error) == (math.inf, 0.0)
    assert output.cosine == pytest.approx(1.0, abs=1e-12)
    assert (output.mean_error, output.top1_agreement) == (0.0, 1.0)
    accuracy = found.metrics["accuracy"]
    assert (accuracy.difference, accuracy.low, accuracy.high) == (0, 0, 0)
    assert json.loads(found.to_json())["outputs"][0]["sqnr_db"] is None


def test_threads_change_nothing(compared: Comparison, exported: EdgeModel) -> None:
    chosen = {**TOP, "own": own_metric}
    found = edgeq.compare(exported, exported, IMAGES, labels=LABELS, metrics=chosen, threads=3)
    assert found == compared


def test_an_exports_own_check_is_the_same_comparison(
    exported: EdgeModel, demo_images: npt.NDArray[np.float32]
) -> None:
    held = HeldOut((image[None],) for image in demo_images)
    held.exhaust()
    found = edgeq.compare(exported, exported, held.samples)
    assert found.outputs == exported.report.outputs
    assert found.metrics == {}


FLOAT_MODELS: dict[str, Callable[[EdgeModel], object]] = {
    "path": lambda _: demo.float_model_path(),
    "name of a file": lambda _: str(demo.float_model_path()),
    "bytes": lambda e: e.float_model.tflite,
    "LiteModel": lambda e: e.float_model,
    "EdgeModel": lambda e: e,
}


@pytest.mark.parametrize("kind", FLOAT_MODELS)
def test_every_kind_of_float_model(kind: str, exported: EdgeModel, tmp_path: Path) -> None:
    expected = edgeq.compare(exported, exported, IMAGES[:10])
    path = exported.save(tmp_path / "int8.tflite")
    assert edgeq.compare(FLOAT_MODELS[kind](exported), path, IMAGES[:10]) == expected


def test_a_module_is_traced() -> None:
    pytest.importorskip("litert_torch")
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.MaxPool2d(4), torch.nn.Flatten(), torch.nn.Linear(49, 10)
    ).eval()  # fmt: skip
    exported = edgeq.export(module, IMAGES, recipe="int8", progress=False)
    items = list(zip(IMAGES[:, None], LABELS, strict=True))
    found = edgeq.compare(module, exported.tflite, items, metrics=TOP)
    expected = edgeq.compare(exported, exported, IMAGES, labels=LABELS, metrics=TOP)
    assert found.metrics == expected.metrics
    assert found.sqnr_db == pytest.approx(expected.sqnr_db, abs=0.01)
    assert edgeq.evaluate(module, IMAGES, LABELS)["accuracy"] == (
        expected.metrics["accuracy"].float_value
    )


class Stream:
    """Labelled batches of 8 that reuse one buffer, and can be read once."""

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        buffer, labels = np.empty_like(IMAGES[:8]), np.empty_like(LABELS[:8])
        for start in range(0, COUNT, 8):
            end = min(start + 8, COUNT)
            buffer[: end - start], labels[: end - start] = IMAGES[start:end], LABELS[start:end]
            yield buffer[: end - start], labels[: end - start]


def loader() -> object:
    data = pytest.importorskip("torch.utils.data")
    import torch

    pairs = data.TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    return data.DataLoader(pairs, batch_size=16)


LABELLED: dict[str, Callable[[str], tuple[object, object]]] = {
    "array": lambda _: (IMAGES, LABELS),
    "list of numbers": lambda _: (list(IMAGES), LABELS.tolist()),
    "labels with an axis": lambda _: (IMAGES, LABELS[:, None]),
    "dict of arrays": lambda name: ({name: IMAGES}, LABELS),
    "pairs": lambda _: (list(zip(IMAGES, LABELS, strict=True)), None),
    "inputs in a tuple": lambda _: ([((i,), y) for i, y in zip(IMAGES, LABELS, strict=True)], None),
    "generator": lambda _: (lambda: zip(IMAGES[:, None], LABELS, strict=True), None),
    "batches": lambda _: (Stream(), None),
    "batches and arrays": lambda _: (
        [IMAGES[i : i + 16] for i in range(0, COUNT, 16)],
        [LABELS[i : i + 16] for i in range(0, COUNT, 16)],
    ),
    "column": lambda name: (
        [UserDict({name: i, "class": y}) for i, y in zip(IMAGES, LABELS, strict=True)], "class",
    ),
    "DataLoader": lambda _: (loader(), None),
}  # fmt: skip


@pytest.mark.parametrize("form", LABELLED)
def test_every_form_of_labelled_data(form: str, exported: EdgeModel, compared: Comparison) -> None:
    data, labels = LABELLED[form](exported.io.inputs[0].name)
    chosen = {**TOP, "own": own_metric}
    assert edgeq.compare(exported, exported, data, labels=labels, metrics=chosen) == compared
    data, labels = LABELLED[form](exported.io.inputs[0].name)
    found = edgeq.evaluate(exported, data, labels, metrics=chosen)
    assert found == {name: m.edge_value for name, m in compared.metrics.items()}


def test_labels_alone_mean_the_accuracy(exported: EdgeModel, compared: Comparison) -> None:
    found = edgeq.compare(exported, exported, IMAGES, labels=LABELS)
    assert found.metrics == {"accuracy": compared.metrics["accuracy"]}
    value = compared.metrics["accuracy"].edge_value
    assert edgeq.evaluate(exported, IMAGES, LABELS) == {"accuracy": value}


def test_labels_that_nobody_asked_for_are_dropped(exported: EdgeModel) -> None:
    pairs = list(zip(IMAGES[:9], LABELS, strict=False))
    assert edgeq.compare(exported, exported, pairs) == edgeq.compare(exported, exported, IMAGES[:9])


def test_data_are_read_once_and_one_at_a_time(exported: EdgeModel) -> None:
    seen: list[int] = []

    def samples() -> Iterator[Array]:
        for index, image in enumerate(IMAGES):
            seen.append(index)
            yield image

    edgeq.compare(exported, exported, samples, threads=1)
    assert seen == list(range(COUNT))


def test_a_metric_of_ones_own_sees_all_rows_and_resampled_ones(exported: EdgeModel) -> None:
    calls: list[tuple[Array, Array]] = []

    def watched(outputs: Array, targets: Array) -> float:
        calls.append((outputs, targets))
        return float(len(np.unique(targets)))

    found = edgeq.compare(exported, exported, IMAGES, labels=LABELS, metrics={"w": watched})
    assert len(calls) == 2 + 2 * metrics.RESAMPLES
    np.testing.assert_array_equal(calls[0][0], logits(exported.float_model.tflite))
    np.testing.assert_array_equal(calls[1][0], logits(exported.tflite))
    assert all(np.array_equal(targets, LABELS) for _, targets in calls[:2])
    (_, first), (_, second) = calls[2:4]
    np.testing.assert_array_equal(first, second)  # paired
    assert not np.array_equal(first, LABELS)
    assert found.metrics["w"].difference == 0


def split_model(batch: int, rows: int = 6, second: str = "b") -> LiteModel:
    """A model of two outputs, the halves `(batch, rows / 2)` of its input."""
    half = Value((batch, rows // 2))
    axis = np.asarray(1, np.int32)
    step = Step("SPLIT", (axis, "x"), {"a": half, second: half}, {"numSplits": 2})
    return LiteModel(OneOp("SPLIT", {"x": Value((batch, rows))}, (step,)).build(), "tflite")


def test_metrics_look_at_the_output_that_is_named() -> None:
    model = split_model(batch=1)
    rows = np.eye(6, dtype=np.float32)
    labels = np.asarray([0, 1, 2, 0, 1, 2])
    assert edgeq.evaluate(model, rows, labels, output="a") == {"accuracy": 4 / 6}
    assert edgeq.evaluate(model, rows[3:], labels[3:], output="b") == {"accuracy": 1.0}
    with pytest.raises(DataError, match=r"outputs a, b, .* is not said: pass output="):
        edgeq.evaluate(model, rows, labels)
    with pytest.raises(DataError, match=r"is not one of them: .* Received: 'c'"):
        edgeq.compare(model, model, rows, labels=labels, output="c")
    assert len(edgeq.compare(model, model, rows).outputs) == 2


def test_a_larger_batch_keeps_rows_and_labels_together() -> None:
    rows = np.arange(42, dtype=np.float32).reshape(7, 6) % 5
    labels = np.arange(7) % 3
    sizes = [1, 3, 2, 1]
    ends = np.cumsum(sizes)
    batches = [(rows[e - s : e], labels[e - s : e]) for s, e in zip(sizes, ends, strict=True)]
    whole = {"rows": lambda outputs, targets: float(len(targets))}
    for batch in (1, 2, 3):
        chosen: dict[str, Any] = {**whole, "accuracy": "accuracy"}
        found = edgeq.evaluate(split_model(batch), batches, output="a", metrics=chosen)
        count = 7 - 7 % batch
        assert found["rows"] == count
        assert found["accuracy"] == (rows[:count, :3].argmax(1) == labels[:count]).mean()


def without_boundary(model: EdgeModel) -> bytes:
    """The exported file with its quantize and dequantize ops cut off, integers in and out."""
    tree = unpack(model.tflite)
    (graph,) = tree.subgraphs
    codes = [code.builtinCode for code in tree.operatorCodes]
    names = [codes[op.opcodeIndex] for op in graph.operators]
    first = graph.operators[names.index(schema.BuiltinOperator.QUANTIZE)]
    last = graph.operators[names.index(schema.BuiltinOperator.DEQUANTIZE)]
    graph.operators = [op for op in graph.operators if op is not first and op is not last]
    graph.inputs, graph.outputs = first.outputs, last.inputs
    (signature,) = tree.signatureDefs
    signature.inputs[0].tensorIndex = int(first.outputs[0])
    signature.outputs[0].tensorIndex = int(last.inputs[0])
    return bytes(pack(tree))


def test_integers_at_inputs_and_outputs_are_converted(
    exported: EdgeModel, compared: Comparison
) -> None:
    edge = without_boundary(exported)
    with Session(edge) as session, pytest.raises(DataError, match="is int8 of shape"):
        session.run(IMAGES[:1])
    found = edgeq.compare(exported, edge, IMAGES, labels=LABELS)
    assert found.sqnr_db == pytest.approx(compared.sqnr_db, abs=1.5)  # ties are rounded apart
    assert found.metrics["accuracy"].difference == pytest.approx(0, abs=0.05)
    accuracy = edgeq.evaluate(edge, IMAGES, LABELS)["accuracy"]
    assert accuracy == found.metrics["accuracy"].edge_value


def test_outputs_of_other_names_and_order_are_matched() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    renamed = split_model(1, second="c")
    assert [o.name for o in edgeq.compare(split_model(1), renamed, rows).outputs] == ["a", "b"]
    swapped = unpack(split_model(1).tflite)
    swapped.subgraphs[0].outputs = swapped.subgraphs[0].outputs[::-1]
    found = edgeq.compare(split_model(1), bytes(pack(swapped)), rows)
    assert found.sqnr_db == math.inf


def unary(name: str, shape: tuple[int, ...] = (1, 4), dtype: str = "float32") -> bytes:
    """A model of one op."""
    value = Value(shape, dtype)
    return OneOp(name, {"x": value}, (Step(name, ("x",), {"y": value}),)).build()


Call = Callable[[EdgeModel], object]

REFUSED: dict[str, tuple[Call, type[Exception], str]] = {
    "an unknown engine": (
        lambda e: edgeq.compare(e, e, IMAGES, engine="spark"), RecipeError,
        "engine must be one of local, ray",
    ),
    "no float model": (
        lambda e: edgeq.compare("no.tflite", e, IMAGES), ModelError,
        r"^the float model: cannot read the model no\.tflite: No such file",
    ),
    "half an edge model": (
        lambda e: edgeq.compare(e, e.tflite[:5000], IMAGES), ModelError,
        r"^the edge model: the \.tflite file is damaged",
    ),
    "another kind of model": (
        lambda e: edgeq.compare(e, 7, IMAGES), ModelError, r"^the edge model: .*Received: builtins",
    ),
    "other inputs": (
        lambda e: edgeq.compare(unary("ABS"), unary("ABS", (1, 5)), np.ones((3, 4), np.float32)),
        ModelError, r"do not go together: input 'x' has the shape \(1, 5\) in one and \(1, 4\)",
    ),
    "other types": (
        lambda e: edgeq.compare(
            unary("ABS"), unary("ABS", dtype="int32"), np.ones((3, 4), np.float32)
        ),
        ModelError, r"input 'x' is float32 in the first and int32 in the second",
    ),
    "another number of outputs": (
        lambda e: edgeq.compare(
            split_model(1), unary("ABS", (1, 6)), np.ones((3, 6), np.float32)
        ),
        ModelError, r"one has 2 outputs \(a, b\), the other 1 \(y\)",
    ),
    "NaN from the float model": (
        lambda e: edgeq.compare(
            unary("SQRT"), unary("ABS"), np.asarray([[1.0] * 4, [4.0] * 4, [-1.0] * 4], np.float32)
        ),
        DataError, r"^sample 2: output 'y' of the float model itself is not finite",
    ),
    "NaN from the edge model": (
        lambda e: edgeq.compare(
            unary("ABS"), unary("SQRT"), np.asarray([[1.0] * 4, [4.0] * 4, [-1.0] * 4], np.float32)
        ),
        VerificationError, r"^sample 2: output 'y' of the exported model is not finite",
    ),
    "NaN from the only model": (
        lambda e: edgeq.evaluate(unary("SQRT"), -np.ones((3, 4), np.float32), [0, 0, 0]),
        DataError, r"^sample 0: output 'y' of the model is not finite",
    ),
    "too few labels": (
        lambda e: edgeq.compare(e, e, IMAGES, labels=LABELS[:-1]), DataError,
        "there are 59 labels for 60 items",
    ),
    "too few labels for a generator": (
        lambda e: edgeq.compare(e, e, lambda: iter(IMAGES), labels=LABELS[:5]), DataError,
        "there are 5 labels for 6 items",
    ),
    "too many labels for a generator": (
        lambda e: edgeq.compare(e, e, lambda: iter(IMAGES[:3]), labels=LABELS), DataError,
        "there are 60 labels for 3 items",
    ),
    "labels that are none": (
        lambda e: edgeq.evaluate(e, IMAGES, 7), DataError, "labels must be an array or a list",
    ),
    "labels that were forgotten": (
        lambda e: edgeq.evaluate(e, IMAGES), DataError,
        r"sample 0 has no label: pass labels=, .* Received: ndarray of shape \(1, 1, 28, 28\)",
    ),
    "a column that is not there": (
        lambda e: edgeq.evaluate(e, [{"x": IMAGES[0]}], "class"), DataError,
        "sample 0 has no column 'class' for its label. Received: x",
    ),
    "a label that is no class": (
        lambda e: edgeq.evaluate(e, IMAGES[:3], [0, 1, 10]), DataError,
        "^sample 2: the label 10 is no class: the output has 10, counted from 0",
    ),
    "a negative label": (
        lambda e: edgeq.evaluate(e, IMAGES[:3], [0, -1, 1]), DataError,
        "^sample 1: the label -1 is no class",
    ),
    "labels that are not whole numbers": (
        lambda e: edgeq.evaluate(e, IMAGES[:3], [0.5, 1.0, 2.0]), DataError,
        r"^sample 0: accuracy and top5 need .* labels float64 \(1,\)",
    ),
    "labels that are objects": (
        lambda e: edgeq.evaluate(e, IMAGES[:1], [object()]), DataError,
        "sample 0: a label must be numbers or text. Received: object",
    ),
    "labels of a batch that are too few": (
        lambda e: edgeq.evaluate(e, [(IMAGES[:8], LABELS[:7])]), DataError,
        r"sample 0 has 8 rows, but its labels have the shape \(7,\)",
    ),
    "labels that differ in shape": (
        lambda e: edgeq.evaluate(
            e, IMAGES[:2], [np.zeros(3), np.zeros(4)], metrics={"own": lambda o, t: 0.0}
        ),
        DataError, r"the labels must have one shape; a row of them has the shapes \(3,\), \(4,\)",
    ),
    "accuracy of what is no score": (
        lambda e: edgeq.evaluate(unary("ABS", (1, 1)), np.ones((2, 1), np.float32), [0, 0]),
        DataError, r"accuracy and top5 need an output of scores .* Received: outputs \(1, 1\)",
    ),
    "metrics that are no dict": (
        lambda e: edgeq.compare(e, e, IMAGES, labels=LABELS, metrics=["accuracy"]),
        DataError, "metrics must be a dict .* Received: list",
    ),
    "an unknown metric": (
        lambda e: edgeq.evaluate(e, IMAGES, LABELS, metrics={"m": "f1"}), DataError,
        "metric 'm' must be one of accuracy, top5, .*retrieval, or a function .* Received: 'f1'",
    ),
    "a metric that gives no number": (
        lambda e: edgeq.evaluate(e, IMAGES, LABELS, metrics={"m": lambda o, t: o}),
        DataError, "metric 'm' must return a number. Received: ndarray",
    ),
    "an agreement of one model": (
        lambda e: edgeq.evaluate(e, IMAGES, LABELS, metrics={"m": "retrieval"}), DataError,
        "metric 'm' compares two models: pass both to compare",
    ),
    "numbers of another shape": (
        lambda e: edgeq.evaluate(e, IMAGES, LABELS, metrics={"m": "mae"}), DataError,
        r"^sample 0: mae and mse need numbers .* outputs \(1, 10\), labels int64 \(1,\)",
    ),
    "retrieval among two": (
        lambda e: edgeq.compare(e, e, IMAGES[:2], metrics={"m": "retrieval"}), DataError,
        "retrieval needs three rows or more. Received: 2",
    ),
    "data of a wrong shape": (
        lambda e: edgeq.compare(e, e, IMAGES[:, :, 1:]), DataError, "^sample 0, input ",
    ),
    "no data": (
        lambda e: edgeq.compare(e, e, []), DataError, "the representative data is empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_sentence(case: str, exported: EdgeModel) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message) as found:
        call(exported)
    assert type(found.value) is kind
    assert "\n" not in str(found.value)


def test_an_error_in_ones_own_metric_arrives_as_it_is(exported: EdgeModel) -> None:
    def broken(outputs: Array, targets: Array) -> float:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        edgeq.evaluate(exported, IMAGES[:2], LABELS[:2], metrics={"m": broken})


@given(
    arrays.arrays(np.int8, (5, 4)), arrays.arrays(np.int64, 5, elements=st.integers(0, 3)),
    st.integers(1, 4),
)  # fmt: skip
def test_top_k_is_that_of_a_stable_sort(scores: Array, targets: Array, k: int) -> None:
    best = np.argsort(-scores.astype(int), axis=1, kind="stable")[:, :k]
    expected = (best == targets[:, None]).any(axis=1)
    np.testing.assert_array_equal(metrics.top_k(k, scores, targets), expected)


def test_top_k_of_many_places_is_their_share() -> None:
    scores = np.eye(4)[np.asarray([[0, 1], [2, 3]])]
    targets = np.asarray([[0, 1], [2, 0]])
    np.testing.assert_array_equal(metrics.top_k(1, scores, targets), [1.0, 0.5])
    np.testing.assert_array_equal(metrics.top_k(1, scores, targets[..., None]), [1.0, 0.5])


def test_the_interval_is_as_wide_as_theory_has_it() -> None:
    """Of a mean: 1.96 standard errors to each side."""
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = metrics.interval(lambda rows: float(values[rows].mean()), len(values))
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), rel=0.02)
    assert (low, high) == metrics.interval(lambda rows: float(values[rows].mean()), len(values))


def test_the_interval_of_a_paired_difference_is_that_of_the_discordant_rows() -> None:
    """Of 1,000 rows both models get right alike, 30 only the first and 12 only the second.

    Source:
        Agresti, Categorical Data Analysis, 10.1.1: variance of a difference of paired proportions.
    """
    before = np.asarray([1.0] * 900 + [1.0] * 30 + [0.0] * 12 + [0.0] * 58)
    after = np.asarray([1.0] * 900 + [0.0] * 30 + [1.0] * 12 + [0.0] * 58)
    low, high = metrics.interval(lambda rows: float(after[rows].mean() - before[rows].mean()), 1000)
    error = math.sqrt((30 + 12) - (30 - 12) ** 2 / 1000) / 1000
    assert low == pytest.approx(-0.018 - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(-0.018 + 1.96 * error, abs=0.2 * error)
    unpaired = math.sqrt(before.var() / 1000 + after.var() / 1000)
    assert high - low < 0.7 * 2 * 1.96 * unpaired


def test_values_that_are_nan_are_left_out_of_the_interval() -> None:
    draws = iter([math.nan, *[1.0] * metrics.RESAMPLES])
    assert metrics.interval(lambda rows: next(draws), 3) == (1.0, 1.0)
    assert all(map(math.isnan, metrics.interval(lambda rows: math.nan, 3)))


IMAGE = (InputSpec("x", (2, 3), "float32"),)


def labelled(data: object, labels: object = None) -> list[Sample]:
    return list(RepDataset(data, Labels(labels)).samples(IMAGE))


def test_labels_stand_behind_the_inputs() -> None:
    data = np.arange(15, dtype=np.float32).reshape(5, 3)
    found = labelled(data, np.arange(5))
    assert [labels.tolist() for _, labels in found] == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(found[1][0], data[2:4])


def test_a_label_of_a_whole_sample_is_one_row() -> None:
    ((_, label),) = labelled([(np.zeros((2, 3), np.float32), np.arange(7))])
    assert label.shape == (1, 7)


@pytest.mark.parametrize("text", ["metrics", "SQNR", "accuracy", "own", "60 samples"])
def test_the_text_has_the_facts(text: str, compared: Comparison) -> None:
    assert text in compared.text()
    assert f"{compared.outputs[0].top1_agreement:.2%}" in compared.text()


def test_square_brackets_of_the_user_are_text(exported: EdgeModel) -> None:
    name = "[bold]x[/bold]"
    chosen: Mapping[str, Any] = {name: own_metric}
    found = edgeq.compare(exported, exported, IMAGES[:3], labels=LABELS[:3], metrics=chosen)
    assert name in found.text()


def test_json_has_every_number(compared: Comparison) -> None:
    fields = json.loads(compared.to_json())
    assert fields["samples"] == COUNT
    assert fields["outputs"][0]["cosine"] == compared.outputs[0].cosine
    assert fields["metrics"]["own"]["low"] == compared.metrics["own"].low
