"""What targets say of single ops: XNNPACK's words against the real delegate, op by op."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from delegation import check_prediction, taken
from one_op import CASES, OneOp, Step, Value
from planted import PLANTED, Outcome, Planted
from stages import to_int8

import edgeq
from edgeq.converter import start_converter
from edgeq.errors import ModelError, UnsupportedOpError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import parse
from edgeq.model import LiteModel
from edgeq.qtypes import DType, QParams
from edgeq.targets import TARGETS, OpView, Purpose, Target, TensorView, op_view
from edgeq.targets.constraints import constraint
from edgeq.targets.target import Compiler

XNNPACK, EDGETPU, PORTABLE = TARGETS["xnnpack"], TARGETS["edgetpu"], TARGETS["portable"]
SAMPLES = 12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_xnnpack_takes_what_is_predicted(case: OneOp) -> None:
    check_prediction(case.build())
    edge = edgeq.export(
        case.build(), case.draw(SAMPLES), recipe="int8", progress=False, min_sqnr_db=None
    )
    check_prediction(edge.tflite)
    check_plan(edge)


def check_plan(edge: EdgeModel) -> None:
    """What targets say of the plan is what they say of the file that was made by it."""
    before, after = edge.rewritten.graph, parse(edge.tflite).graphs[0]
    for op in before.operators:
        planned = op_view(before, op, edge.plan.tensors, edge.plan.operands)
        same = [o for o in after.operators if o.name == op.name]
        if len(same) == 1 and len(before.operators) == 1:
            for target in TARGETS.values():
                assert target.obstacles(planned) == target.obstacles(op_view(after, same[0]))


@pytest.mark.parametrize("case", PLANTED, ids=lambda case: case.label)
def test_limits_of_xnnpack_are_the_delegates(case: Planted) -> None:
    graph = parse(case.tflite).graphs[0]
    op = graph.operators[-1]
    assert XNNPACK.refuses(op_view(graph, op)) == (case.outcome is Outcome.REFUSED)
    assert bool(XNNPACK.placement(graph)[op.index]) == (case.outcome is not Outcome.TAKEN)
    if case.outcome is Outcome.REFUSED:
        with pytest.raises(ModelError, match="the runtime cannot load"):
            taken(case.tflite)
    else:
        assert (op.index in taken(case.tflite)) == (case.outcome is Outcome.TAKEN)


def test_every_constraint_of_xnnpack_is_shown_by_a_planted_file() -> None:
    shown = set()
    for case in PLANTED:
        graph = parse(case.tflite).graphs[0]
        shown |= {c.name for c, _ in XNNPACK.broken(op_view(graph, graph.operators[-1]))}
    assert {c.name for c in (*XNNPACK.premises, *XNNPACK.constraints)} - shown == set()


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_every_constraint_has_a_sentence_and_a_source(target: Target) -> None:
    for rule in (*target.premises, *target.constraints):
        assert rule.sentence.startswith(("XNNPACK ", "The Edge TPU ")), rule.name
        assert rule.source, rule.name


def test_an_obstacle_says_the_rule_and_what_was_found() -> None:
    op = OpView("ADD", (int8(4, scale=1.0), int8(4, scale=0.5)), (int8(4, scale=0.001),))
    (obstacle,) = XNNPACK.obstacles(op)
    assert obstacle == (
        "XNNPACK adds and subtracts int8 where input scale / output scale is in [2^-10, 2^8): "
        "1000 for input 0"
    )
    assert XNNPACK.obstacles(OpView("ADD", (int8(4), int8(4)), (int8(4),))) == ()


def int8(*shape: int, data: np.ndarray | None = None, scale: float = 0.1) -> TensorView:
    return TensorView(shape, "int8", QParams(DType.INT8, (scale,), (0,)), data is not None, data)


def ints(*values: object) -> TensorView:
    data = np.asarray(values, np.int32)
    return TensorView(data.shape, "int32", None, True, data)


IMAGE = int8(1, 8, 8, 4)


EDGETPU_CASES = {
    "not listed": (OpView("GELU", (IMAGE,), (IMAGE,)), "it has no GELU"),
    "float": (OpView("ADD", (TensorView((4,), "float32"),) * 2, (IMAGE,)), "ADD with float32"),
    "dynamic": (OpView("RELU", (int8(-1, 4),), (int8(-1, 4),)), "a dynamic dimension"),
    "batch": (OpView("RELU", (int8(2, 8, 8, 4),), (int8(2, 8, 8, 4),)), "shape 2x8x8x4"),
    "fused": (OpView("MAX_POOL_2D", (IMAGE,), (IMAGE,), fused_activation="RELU"), "RELU"),
    "concatenated constant": (
        OpView("CONCATENATION", (IMAGE, int8(1, 8, 8, 4, data=np.ones((1, 8, 8, 4)))), (IMAGE,)),
        "the constant is not zero",
    ),
    "concatenated constant and two more": (
        OpView("CONCATENATION", (IMAGE, IMAGE, int8(4, data=np.zeros(4))), (IMAGE,)),
        "3 inputs, one of them constant",
    ),
    "dilation": (
        OpView("CONV_2D", (IMAGE,), (IMAGE,), options={"dilationHFactor": 2, "dilationWFactor": 1}),
        "2 and 1",
    ),
    "fully connected": (OpView("FULLY_CONNECTED", (int8(4, 16),), (int8(4, 8),)), "shape 4x8"),
    "mean over the batch": (OpView("MEAN", (IMAGE, ints(0)), (int8(8, 8, 4),)), "axis 0"),
    "mean over 6 channels": (
        OpView("MEAN", (int8(1, 8, 8, 6), ints(3)), (int8(1, 8, 8),)), "6 channels",
    ),
    "padded batch": (OpView("PAD", (IMAGE, ints([1, 0], [0, 0])), (IMAGE,)), "axis 0"),
    "packed batch": (OpView("PACK", (int8(4), int8(4)), (int8(2, 4),)), "axis 0"),
    "split batch": (OpView("SPLIT", (ints(0), IMAGE), (IMAGE, IMAGE)), "axis 0"),
    "slopes": (OpView("PRELU", (IMAGE, int8(8, 8, 4, data=np.ones(1))), (IMAGE,)), "slopes 8x8x4"),
    "softmax of an image": (OpView("SOFTMAX", (IMAGE,), (IMAGE,)), "shape 1x8x8x4"),
    "long softmax": (OpView("SOFTMAX", (int8(1, 16001),), (int8(1, 16001),)), "16001 elements"),
    "strides": (
        OpView("STRIDED_SLICE", (IMAGE, ints(0), ints(8), ints(2)), (IMAGE,)), "strides 2",
    ),
    "computed weights": (OpView("FULLY_CONNECTED", (int8(1, 4), int8(4, 4)), (int8(1, 4),)),
                         "operand 1 is computed"),
}  # fmt: skip


@pytest.mark.parametrize("label", EDGETPU_CASES)
def test_what_the_edge_tpu_does_not_map(label: str) -> None:
    op, what = EDGETPU_CASES[label]
    (obstacle,) = EDGETPU.obstacles(op)
    assert obstacle.startswith("The Edge TPU")
    assert obstacle.endswith(f": {what}")
    assert obstacle in PORTABLE.obstacles(op) or XNNPACK.obstacles(op)


def test_every_constraint_of_the_edge_tpu_is_shown() -> None:
    shown = {c.name for op, _ in EDGETPU_CASES.values() for c, _ in EDGETPU.broken(op)}
    assert {c.name for c in (*EDGETPU.premises, *EDGETPU.constraints)} - shown == set()


def test_the_edge_tpu_compiler_maps_up_to_the_first_op_that_it_cannot() -> None:
    image = Value((1, 8, 8, 4))
    chain = (("RELU", "x", "a"), ("EXP", "a", "b"), ("RELU", "b", "c"))
    steps = tuple(Step(name, (source,), {result: image}) for name, source, result in chain)
    case = OneOp("chain", {"x": image}, steps)
    with start_converter() as worker:
        int8 = to_int8(worker, LiteModel(case.build(), "tflite"), case.draw(SAMPLES))
    graph = parse(int8).graphs[0]
    placement = EDGETPU.placement(graph)
    mapped = [op.name for op in graph.operators if not placement[op.index]]
    assert [op.name for op in graph.operators] == ["QUANTIZE", "RELU", "EXP", "RELU", "DEQUANTIZE"]
    assert mapped == ["RELU"]
    assert placement[3] == ("The Edge TPU compiler maps one piece, which ends at EXP (op 2)",)


@constraint("MEAN")
def no_means(op: OpView) -> str | None:
    """The chip has no means.

    Source: made up.
    """
    return f"{len(op.outputs)} of them"


CHIP = Target(
    name="chip",
    title="the chip",
    about="Made up.",
    premises=(),
    constraints=(no_means,),
    mixes_float=False,
    rewrites=frozenset({Purpose.FEWER_OPS}),
    port_type="int8",
    layout="nhwc",
    oldest_runtime=(2, 6),
    compiler=Compiler("chip_compiler_404", "It comes with the chip"),
    advice={"MEAN": "use strides"},
    file_notes=lambda graphs: (f"{len(graphs)} graph(s) on the chip",),
)


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A made-up target, which is known by its line in `TARGETS` alone."""
    monkeypatch.setitem(TARGETS, CHIP.name, CHIP)
    return CHIP


def test_export_asks_the_target(
    chip: Target, demo_model: LiteModel, demo_images: npt.NDArray[np.float32]
) -> None:
    edge = edgeq.export(demo_model.tflite, demo_images, target="chip", progress=False)
    assert {port.dtype for port in (*edge.io.inputs, *edge.io.outputs)} == {"int8"}
    assert edge.io.inputs[0].shape == (1, 28, 28, 1)
    assert edge.report.recipe == "int8"
    assert edge.report.notes[-1] == (
        "the chip runs what `edgeq compile` makes of this file; chip_compiler_404 is not on the "
        "PATH. It comes with the chip"
    )
    assert any("has no means: 1 of them" in why for why in edge.report.obstacles.values())


def test_an_op_that_is_newer_than_the_targets_run_time_is_refused(chip: Target) -> None:
    gelu = next(case for case in CASES if case.label == "GELU")
    with pytest.raises(UnsupportedOpError, match=r"GELU .* needs 2\.9"):
        edgeq.export(gelu.build(), gelu.draw(SAMPLES), target="chip", progress=False)


def test_lint_asks_the_target(chip: Target) -> None:
    mean = next(case for case in CASES if case.label == "MEAN")
    found = edgeq.lint(mean.build(), "chip")
    assert found.notes == ("1 graph(s) on the chip",)
    (finding,) = found.findings
    assert (finding.rule, finding.advice) == ("chip/no-means", "use strides")
