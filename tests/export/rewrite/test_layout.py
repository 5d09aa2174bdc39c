"""Images as NHWC, and transposes that a file does not need: the same numbers without them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import recipes
from one_op import SAME, OneOp, Step, Value
from traces import Traces

import edgeq
from edgeq.data.input_spec import InputSpec, input_specs
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError, RecipeError
from edgeq.export.edge_model import EdgeModel
from edgeq.export.rewrite import REWRITES, rewrite
from edgeq.export.rewrite.nhwc_ports import to_nhwc
from edgeq.model import LiteModel
from edgeq.runtime.backend import load_backend
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]

NCHW = Value((1, 3, 6, 4))
TO_NHWC, TO_NCHW = np.asarray([0, 2, 3, 1], np.int32), np.asarray([0, 3, 1, 2], np.int32)


def entry(source: str = "x", name: str = "nhwc") -> Step:
    return Step("TRANSPOSE", (source, TO_NHWC), {name: Value((1, 6, 4, 3))}, {})


def convolution(source: str = "nhwc", name: str = "features") -> Step:
    weight = np.random.default_rng(0).uniform(-1, 1, (5, 3, 3, 3)).astype(np.float32)
    options = {"padding": SAME, "strideW": 1, "strideH": 1, "dilationWFactor": 1,
               "dilationHFactor": 1}  # fmt: skip
    return Step("CONV_2D", (source, weight, np.zeros(5, np.float32)),
                {name: Value((1, 6, 4, 5))}, options)  # fmt: skip


def leave(source: str = "features") -> Step:
    return Step("TRANSPOSE", (source, TO_NCHW), {"y": Value((1, 5, 6, 4))}, {})


def model(*steps: Step, **inputs: Value) -> LiteModel:
    return LiteModel(OneOp("model", inputs or {"x": NCHW}, steps).build(), "tflite")


def names(found: LiteModel) -> list[str]:
    return [op.name for op in found.graph.operators]


def outputs(found: LiteModel, *arrays: Array) -> list[Array]:
    with Session(found.tflite) as session:
        session.invoke(arrays)
        return session.outputs()


def test_images_enter_and_leave_as_nhwc_with_the_same_numbers() -> None:
    before = model(entry(), convolution(), leave())
    after = to_nhwc(before)
    assert names(after) == ["CONV_2D"]
    assert [(name, t.name, t.shape) for name, t in after.input_tensors()] == [
        ("x", "x", (1, 6, 4, 3))
    ]
    ((name, tensor),) = after.signature.outputs
    assert (name, after.graph.tensors[tensor].shape) == ("y", (1, 6, 4, 5))
    assert after.notes == (
        "input 'x' is NHWC (1, 6, 4, 3), as layout='nhwc' asks for",
        "output 'y' is NHWC (1, 6, 4, 5), as layout='nhwc' asks for",
    )
    image = np.random.default_rng(1).uniform(-3, 3, (1, 3, 6, 4)).astype(np.float32)
    (expected,) = outputs(before, image)
    (found,) = outputs(after, np.ascontiguousarray(image.transpose(0, 2, 3, 1)))
    assert np.array_equal(found.transpose(0, 3, 1, 2), expected)


def test_the_rest_of_the_ports_stay() -> None:
    gain = Value((1, 5))
    scale = Step("MUL", ("features", "gain"), {"scaled": Value((1, 6, 4, 5))}, {})
    pool = Step("MEAN", ("scaled", np.asarray([1, 2], np.int32)), {"y": Value((1, 5))}, {})
    after = to_nhwc(model(entry(), convolution(), scale, pool, x=NCHW, gain=gain))
    assert names(after) == ["CONV_2D", "MUL", "MEAN"]
    assert [t.shape for _, t in after.input_tensors()] == [(1, 6, 4, 3), (1, 5)]
    assert after.nhwc == ("x",)
    assert len(after.notes) == 1


def test_a_reshape_that_moves_nothing_is_a_transpose() -> None:
    """As the converter writes it for one channel."""
    gray = Value((1, 1, 6, 4))
    shape = np.asarray([1, 6, 4, 1], np.int32)
    before = model(
        Step("RESHAPE", ("x", shape), {"nhwc": Value((1, 6, 4, 1))}, {}),
        Step("RELU", ("nhwc",), {"y": Value((1, 6, 4, 1))}, {}), x=gray,
    )  # fmt: skip
    assert names(to_nhwc(before)) == ["RELU"]
    square = Value((1, 2, 2, 2))
    mixed = model(
        Step("RESHAPE", ("x", np.asarray([1, 2, 2, 2], np.int32)), {"a": square}, {}),
        Step("RELU", ("a",), {"y": square}, {}), x=square,
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"'x' of shape .* is read by RESHAPE at a"):
        to_nhwc(mixed)


@pytest.mark.parametrize(
    ("steps", "inputs", "message"),
    [
        (
            (Step("RELU", ("x",), {"y": NCHW}, {}),), {"x": NCHW},
            r"'x' of shape \(1, 3, 6, 4\) is read by RELU at y \(op 0\)\. Drop the layout",
        ),
        (
            (entry(), Step("RELU", ("x",), {"r": NCHW}, {}), convolution()), {"x": NCHW},
            r"is read by TRANSPOSE at nhwc \(op 0\); RELU at r \(op 1\)",
        ),
        (
            (Step("RELU", ("x",), {"y": Value((1, 4))}, {}),), {"x": Value((1, 4))},
            "layout='nhwc' is for models with a 4-D input; this one has none",
        ),
    ],
)  # fmt: skip
def test_what_has_no_transpose_to_drop_is_told(
    steps: tuple[Step, ...], inputs: dict[str, Value], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        to_nhwc(model(*steps, **inputs))


def test_an_output_that_is_read_further_keeps_its_transpose() -> None:
    axes = np.asarray([1], np.int32)
    more = Step("REDUCE_MAX", ("y", axes), {"z": Value((1, 6, 4))}, {})
    before = model(entry(), convolution(), leave(), more)
    assert names(to_nhwc(before)) == ["CONV_2D", "TRANSPOSE", "REDUCE_MAX"]


def test_samples_are_given_as_the_model_takes_them() -> None:
    (spec,) = input_specs(to_nhwc(model(entry(), convolution(), leave())))
    assert (spec.shape, spec.given_shape) == ((1, 6, 4, 3), (1, 3, 6, 4))
    images = np.arange(2 * 72, dtype=np.float32).reshape(2, 3, 6, 4)
    for source in (images, list(images), [images]):
        found = np.concatenate([s for (s,) in RepDataset(source).samples((spec,))])
        assert np.array_equal(found, images.transpose(0, 2, 3, 1))
    with pytest.raises(DataError, match=r"takes shape \(1, 3, 6, 4\). Received: \(1, 6, 4, 3\)"):
        list(RepDataset(images.transpose(0, 2, 3, 1)).samples((spec,)))
    assert InputSpec("x", (1, 2), "float32").given_shape == (1, 2)


def test_a_model_remembers_its_layout_in_other_processes() -> None:
    after = to_nhwc(model(entry(), convolution(), leave()))
    again = pickle.loads(pickle.dumps(after))
    assert again == after
    assert input_specs(again) == input_specs(after)


def test_an_unknown_layout_is_told_before_any_work() -> None:
    for work in (edgeq.export, edgeq.calibrate):
        with pytest.raises(
            RecipeError, match=r"layout must be 'nhwc', or None .* Received: 'nchw'"
        ):
            work(b"", np.zeros((1, 4)), layout="nchw")


FOLD = [row for row in REWRITES if row.name == "reduction behind RESHAPE or TRANSPOSE"]


@pytest.mark.parametrize(
    ("order", "axes", "folded"),
    [
        ((0, 3, 1, 2), (2, 3), (1, 2)),
        ((0, 3, 1, 2), (-1, -2), (1, 2)),
        ((0, 3, 1, 2), (1,), (3,)),
        ((0, 3, 1, 2), (1, 2, 3), (1, 2, 3)),
        ((0, 3, 1, 2), (2,), None),
        ((3, 2, 1, 0), (1,), None),
    ],
)
@pytest.mark.parametrize("reduction", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
def test_a_reduction_reads_what_its_transpose_reads(
    reduction: str, order: tuple[int, ...], axes: tuple[int, ...], folded: tuple[int, ...] | None
) -> None:
    shape = (2, 6, 4, 3)
    moved = tuple(shape[axis] for axis in order)
    left = tuple(n for i, n in enumerate(moved) if i not in {axis % 4 for axis in axes})
    before = model(
        Step("TRANSPOSE", ("x", np.asarray(order, np.int32)), {"t": Value(moved)}, {}),
        Step(reduction, ("t", np.asarray(axes, np.int32)), {"y": Value(left)}, {}),
        x=Value(shape),
    )
    after = rewrite(before, rewrites=FOLD)
    assert names(after) == (["TRANSPOSE", reduction] if folded is None else [reduction])
    if folded is not None:
        constant = after.graph.tensors[after.graph.operators[0].inputs[1]].data
        assert constant is not None
        assert tuple(constant) == folded
    array = np.random.default_rng(0).uniform(-3, 3, shape).astype(np.float32)
    assert outputs(after, array)[0] == pytest.approx(outputs(before, array)[0], rel=1e-5, abs=1e-6)


def test_a_transpose_that_is_read_elsewhere_stays() -> None:
    mean = Step("MEAN", ("t", np.asarray([2, 3], np.int32)), {"m": Value((1, 3))}, {})
    both = model(
        Step("TRANSPOSE", ("x", TO_NCHW), {"t": NCHW}, {}), mean,
        Step("RESHAPE", ("m", np.asarray([1, 3, 1, 1], np.int32)), {"s": Value((1, 3, 1, 1))}, {}),
        Step("MUL", ("t", "s"), {"y": NCHW}, {}), x=Value((1, 6, 4, 3)),
    )  # fmt: skip
    folded = rewrite(both, rewrites=FOLD)
    assert names(folded) == ["TRANSPOSE", "MEAN", "RESHAPE", "MUL"]
    assert folded.graph.operators[1].inputs[0] == folded.graph.inputs[0]
    kept = Step("MEAN", ("t", np.asarray([2, 3], np.int32)), {"m": Value((1, 3, 1, 1))},
                {"keepDims": True})  # fmt: skip
    same = model(Step("TRANSPOSE", ("x", TO_NCHW), {"t": NCHW}, {}), kept, x=Value((1, 6, 4, 3)))
    assert rewrite(same, rewrites=FOLD) is same


def export(traces: Traces, name: str, **options: Any) -> tuple[EdgeModel, Array]:
    float_file, data = traces.get(name, 12)
    made = edgeq.export(
        float_file,
        data,
        recipe=recipes.NEAREST,
        min_sqnr_db=None,
        threads=1,
        progress=False,
        **options,
    )
    return made, data


def test_no_transpose_is_left_of_a_classifier_from_pytorch(traces: Traces) -> None:
    """Its mean over height and width had one of its own."""
    edge, data = export(traces, "squeezenet1_1", layout="nhwc", inputs="int8")
    assert edge.report.transposes == 0
    assert edge.report.undelegated == ()
    assert edge.io.inputs[0].shape == (1, 96, 96, 3)
    assert data.shape[1:] == (3, 96, 96)
    with edge.session() as session, Session(edge.float_model.tflite) as reference:
        image = np.ascontiguousarray(data[:1].transpose(0, 2, 3, 1))
        (found,) = session.run(edge.io.inputs[0].quantize(image)).values()
        (expected,) = reference.run(image).values()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


@pytest.mark.slow
def test_a_segmenter_from_pytorch_gives_nhwc_as_well(traces: Traces) -> None:
    as_traced, data = export(traces, "unet")
    edge, _ = export(traces, "unet", layout="nhwc")
    assert (as_traced.report.transposes, edge.report.transposes) == (2, 0)
    interpreter = load_backend().module.Interpreter(model_content=edge.tflite)
    (port,), (result,) = edge.io.inputs, edge.io.outputs
    assert (port.shape, result.shape) == ((1, 64, 64, 3), (1, 64, 64, 100))
    runner = interpreter.get_signature_runner()
    found = runner(**{port.name: np.ascontiguousarray(data[:1].transpose(0, 2, 3, 1))})
    with as_traced.session() as session:
        (expected,) = session.run(data[:1]).values()
    difference = found[result.name].transpose(0, 3, 1, 2) - expected
    assert np.abs(difference).max() < 0.1 * np.abs(expected).max()
    assert any("output 'output_0' is NHWC" in note for note in edge.report.notes)
