"""What was written out for integers is one op again where it stays float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_op import RELU, RELU6, OneOp, Step, Value
from rewrite_cases import CONV

import edgeq
from edgeq.export.rewrite import rewrite
from edgeq.export.rewrite.written_out.whole_ops import whole_ops
from edgeq.flatbuffer import parse_tree, unpack
from edgeq.model import LiteModel

WIDE = Value((1, 6, 6, 40))
NARROW = Value((1, 6, 6, 8))

_RANDOM = np.random.default_rng(0)
SLOPES = _RANDOM.uniform(-0.4, 0.6, 40).astype(np.float32)
FACTORS = _RANDOM.uniform(0.5, 1.5, 40).astype(np.float32)


def between(name: str, *constants: Any, image: Value = WIDE, before: Any = 0) -> OneOp:
    """An op between two convolutions of 1x1, which have weights to store."""
    channels = image.shape[-1]

    def conv(seed: int) -> Any:
        random = np.random.default_rng(seed)
        weights = random.normal(0, channels**-0.5, (channels, 1, 1, channels)).astype(np.float32)
        return weights, np.zeros(channels, np.float32)

    steps = (
        Step("CONV_2D", ("x", *conv(1)), {"a": image}, {**CONV, "fusedActivationFunction": before}),
        Step(name, ("a", *constants), {"b": image}),
        Step("CONV_2D", ("b", *conv(2)), {"y": image}, CONV),
    )
    return OneOp(f"{name}/between", {"x": image}, steps)


CASES = {
    "PRELU": between("PRELU", SLOPES.reshape(1, 1, -1)),
    "PRELU that only falls": between("PRELU", np.abs(SLOPES).reshape(1, 1, -1)),
    "PRELU of few channels": between("PRELU", SLOPES[:8].reshape(1, 1, -1), image=NARROW),
    "HARD_SWISH": between("HARD_SWISH"),
    "MUL": between("MUL", FACTORS, before=RELU6),
}


def exported(case: OneOp, recipe: Any) -> tuple[Any, list[str]]:
    edge = edgeq.export(case.build(), case.draw(12), recipe=recipe, progress=False)
    return edge, [op.name for op in parse_tree(unpack(edge.tflite)).graphs[0].operators]


@pytest.mark.parametrize("recipe", ["weight_int8", "dynamic_int8", "float16"])
@pytest.mark.parametrize("label", CASES)
def test_one_op_takes_their_place(label: str, recipe: str) -> None:
    case, name = CASES[label], label.split(" ")[0]
    edge, ops = exported(case, recipe)
    assert [op for op in ops if op != "DEQUANTIZE"] == ["CONV_2D", name, "CONV_2D"]
    assert edge.report.delegated_ops == edge.report.total_ops
    assert edge.report.sqnr_db > 35


@pytest.mark.parametrize("label", CASES)
def test_integers_stay_written_out(label: str) -> None:
    edge, ops = exported(CASES[label], "int8")
    assert label.split(" ")[0] not in ops
    assert not edge.report.float_ops


def test_the_report_names_the_op_of_the_file() -> None:
    edge, _ = exported(CASES["PRELU"], "dynamic_int8")
    assert [where.split(" ")[0] for where in edge.report.float_ops] == ["PRELU"]


def test_the_numbers_stay_the_same() -> None:
    rule = edgeq.Rule(mode=edgeq.Mode.FLOAT, reason="to compare")
    whole = edgeq.Recipe("float", rules=(rule,))
    for label, case in CASES.items():
        model = LiteModel(case.build(), "tflite")
        rewritten = rewrite(model)
        assert whole_ops(rewritten.graph), label
        edge, _ = exported(case, whole)
        assert edge.report.sqnr_db > 110, label


def leak(*, between_reads: bool = False, slope: float = 0.3, clipped: Any = RELU) -> OneOp:
    """A leaky activation written out, of which another op may read a part."""
    slopes = np.linspace(slope, slope / 2, 8, dtype=np.float32)
    fused = {"fusedActivationFunction": clipped}
    steps = [
        Step("RELU", ("x",), {"positive": NARROW}),
        Step("MUL", ("x", -slopes), {"negative": NARROW}, fused),
        Step("SUB", ("positive", "negative"), {"y" if not between_reads else "z": NARROW}),
    ]
    if between_reads:
        steps.append(Step("ADD", ("z", "negative"), {"y": NARROW}))
    return OneOp("SUB/leak", {"x": NARROW}, tuple(steps))


def of_rows(rank: int) -> OneOp:
    """A PRELU between dense layers, of rows or of one image's pixels."""
    rows = Value((1,) * (rank - 2) + (6, 40))
    weights = np.random.default_rng(3).normal(0, 0.15, (40, 40)).astype(np.float32)
    keep = {"keepNumDims": True}
    steps = (
        Step("FULLY_CONNECTED", ("x", weights, None), {"a": rows}, keep),
        Step("PRELU", ("a", SLOPES.reshape((1,) * (rank - 2) + (40,))), {"b": rows}),
        Step("FULLY_CONNECTED", ("b", weights.T.copy(), None), {"y": rows}, keep),
    )
    return OneOp("PRELU/rows", {"x": rows}, steps)


@pytest.mark.parametrize("rank", [2, 3])
def test_rows_have_one_op_as_well(rank: int) -> None:
    edge, ops = exported(of_rows(rank), "weight_int8")
    assert "PRELU" in ops
    assert edge.report.sqnr_db > 35


def names(case: OneOp) -> list[str]:
    return [form.name for form in whole_ops(LiteModel(case.build(), "tflite").graph)]


def test_what_another_op_reads_as_well_stays() -> None:
    assert names(leak()) == ["PRELU"]
    assert names(leak(between_reads=True)) == []


def test_what_only_looks_alike_stays() -> None:
    assert names(leak(slope=-0.3)) == []
    assert names(leak(clipped=RELU6)) == []


@pytest.mark.parametrize("label", CASES)
def test_the_search_takes_them_as_one(label: str) -> None:
    edge, ops = exported(CASES[label], "auto")
    name = label.split(" ")[0]
    assert edge.report.sqnr_db > 20
    assert name in ops or edge.report.op_counts.get("int8", 0) > 2


def test_the_one_op_reads_what_it_multiplies_with() -> None:
    for case in CASES.values():
        graph = rewrite(LiteModel(case.build(), "tflite")).graph
        (whole,) = whole_ops(graph)
        op = whole.as_op(graph)
        read = [graph.tensors[t] for t in op.inputs]
        assert not read[0].is_constant
        assert [tensor.data.size for tensor in read[1:]] == [
            np.asarray(constant).size for constant in case.steps[1].operands[1:]
        ]
