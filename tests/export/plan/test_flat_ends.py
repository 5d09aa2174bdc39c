"""Ends of a range for which all that is computed of a tensor stays the same take no integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from one_op import OneOp, Step, Value

import edgeq
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.observers import MinMax
from edgeq.export.plan.choices import choose
from edgeq.export.plan.planner import make_plan
from edgeq.model import LiteModel
from edgeq.recipe import INT8, Mode, Recipe, Rule

X = Value((1, 8, 4))
FLAT = Value((1, 32))
RELU6 = {"fusedActivationFunction": 3}
INT16 = Recipe("int16", (Rule(mode=Mode.INT16X8),))


def number(*values: float) -> np.ndarray:
    return np.asarray(values if len(values) > 1 else values[0], np.float32)


def hard_swish(start: np.ndarray, share: np.ndarray) -> tuple[Step, ...]:
    """`x * relu6(x + start) * share`."""
    return (
        Step("ADD", ("t", start), {"open": X}, RELU6),
        Step("MUL", ("open", share), {"gate": X}),
        Step("MUL", ("t", "gate"), {"y": X}),
    )


SWISH = hard_swish(number(3), number(1 / 6))
SILU = (Step("LOGISTIC", ("t",), {"gate": X}), Step("MUL", ("t", "gate"), {"y": X}))
GELU = (Step("GELU", ("t",), {"y": X}),)
QUICK_GELU = (
    Step("MUL", ("t", number(1.702)), {"more": X}),
    Step("LOGISTIC", ("more",), {"gate": X}),
    Step("MUL", ("t", "gate"), {"y": X}),
)
MOVED = (
    Step("RESHAPE", ("t", np.asarray(FLAT.shape, np.int32)), {"row": FLAT}),
    Step("GELU", ("row",), {"y": FLAT}),
)
UNEVEN = hard_swish(number(3, 1, 2, 3), number(1 / 6, 1 / 2, 1 / 4, 1 / 6))

SEEN = {
    "t": (-20.0, 8.0), "open": (0.0, 6.0), "gate": (0.0, 1.0), "more": (-34.0, 14.0),
    "y": (-0.3, 8.0), "z": (-20.0, 8.0),
}  # fmt: skip


def range_of(
    name: str, *steps: Step, recipe: Recipe = INT8, seen: Mapping[str, tuple[float, float]] = SEEN
) -> tuple[float, float]:
    """Of a tensor's integers, where `t` is computed in front of these ops."""
    first = Step("ADD", ("x", number(1)), {"t": X})
    model = LiteModel(OneOp("model", {"x": X}, (first, *steps)).build(), "tflite")
    index = {tensor.name: tensor.index for tensor in model.graph.tensors}
    found = {index[n]: MinMax(*seen[n]) for n in seen.keys() & index.keys()}
    calibration = Calibration(model.digest, 128, {**found, index["x"]: MinMax(-21.0, 7.0)})
    return make_plan(model, calibration, choose(model, recipe)).tensors[index[name]].range()


@pytest.mark.parametrize(
    ("steps", "low"),
    [
        (SWISH, -3.0), (SILU, -6.8), (GELU, -2.8), (QUICK_GELU, -3.6), (MOVED, -2.8),
        (UNEVEN, -3.0),
    ],
    ids=["hard swish", "SiLU", "GELU", "quick GELU", "moved", "by channel"],
)  # fmt: skip
def test_what_an_activation_makes_0_of_has_no_integers(steps: tuple[Step, ...], low: float) -> None:
    found = range_of("t", *steps)
    assert found[0] == pytest.approx(low, abs=0.15)
    assert found[1] == pytest.approx(8.0, abs=0.05)


def test_a_gate_is_flat_on_both_sides() -> None:
    low, high = range_of("t", SILU[0])
    assert (low, high) == (pytest.approx(-6.9, abs=0.15), pytest.approx(6.9, abs=0.15))


@pytest.mark.parametrize(
    "behind",
    [
        Step("ADD", ("y", "t"), {"z": X}),
        Step("SUB", ("t", "y"), {"z": X}),
        Step("MUL", ("y", "x"), {"z": X}),
    ],
    ids=["a sum", "a difference", "a product with another"],
)
def test_what_is_read_elsewhere_keeps_its_range_there(behind: Step) -> None:
    """Only the product with something else reads no more of `t` than its activation."""
    low, _ = range_of("t", *SWISH, behind)
    assert low == pytest.approx(-3.0 if behind.name == "MUL" else -20.0, abs=0.15)


OTHER = Step("MUL", ("x", number(0.1)), {"other": X})
GATE = Step("LOGISTIC", ("sum",), {"gate": X})
HALF = Value((1, 8, 2))


@pytest.mark.parametrize(
    ("steps", "ends"),
    [
        ((Step("ADD", ("t", "other"), {"sum": X}), GATE), (-7.9, 9.9)),
        ((Step("SUB", ("t", "other"), {"sum": X}), GATE), (-9.9, 7.9)),
        ((Step("SUB", ("other", "t"), {"sum": X}), GATE), (-9.9, 7.9)),
        ((Step("ADD", ("t", "other"), {"sum": X}, RELU6),), (-1.0, 9.0)),
        (
            (
                Step("SUB", ("t", number(1)), {"less": X}),
                Step("ADD", ("less", "other"), {"sum": X}),
                GATE,
            ),
            (-6.9, 10.9),
        ),
        ((Step("ADD", ("t", "other"), {"sum": X}), Step("ADD", ("sum", "x"), {"z": X})), (-20, 20)),
    ],
    ids=["sum", "less", "from", "cut off", "with a constant", "a sum of sums"],
)
def test_a_sum_moves_the_limits_by_what_is_added(
    steps: tuple[Step, ...], ends: tuple[float, float]
) -> None:
    """By its range: what is beyond makes the sum lie in a flat end whatever is added."""
    seen = {**SEEN, "t": (-20.0, 20.0), "other": (-3.0, 1.0), "sum": (-22.0, 22.0)}
    found = range_of("t", OTHER, *steps, seen={**seen, "less": (-21.0, 19.0)})
    assert found == (pytest.approx(ends[0], abs=0.2), pytest.approx(ends[1], abs=0.2))


PARTS = {"a": HALF, "b": HALF}
SPLIT = Step("SPLIT", (np.asarray(2, np.int32), "t"), PARTS, {"numSplits": 2})


@pytest.mark.parametrize(("second", "low"), [("LOGISTIC", -6.9), ("ABS", -20.0)])
def test_parts_tell_apart_what_any_of_them_does(second: str, low: float) -> None:
    steps = (
        SPLIT,
        Step("LOGISTIC", ("a",), {"gate": HALF}),
        Step(second, ("b",), {"c": HALF}),
        Step("MUL", ("gate", "c"), {"y": HALF}),
    )
    seen = {"t": (-20.0, 20.0), "a": (-20.0, 20.0), "b": (-20.0, 20.0), "c": (0.0, 1.0)}
    assert range_of("t", *steps, seen={**SEEN, **seen})[0] == pytest.approx(low, abs=0.2)


def test_a_gate_is_not_of_the_part_that_it_multiplies() -> None:
    """Of a gated linear unit, the other half of the channels may be low where the gate is open."""
    size = np.asarray((1, 8, 2), np.int32)
    steps = (
        Step("SLICE", ("t", np.asarray((0, 0, 0), np.int32), size), {"a": HALF}),
        Step("SLICE", ("t", np.asarray((0, 0, 2), np.int32), size), {"b": HALF}),
        Step("LOGISTIC", ("b",), {"gate": HALF}),
        Step("MUL", ("a", "gate"), {"y": HALF}),
    )
    seen = {**SEEN, "a": (-20.0, 8.0), "b": (-20.0, 8.0)}
    assert range_of("t", *steps, seen=seen)[0] == pytest.approx(-20.0, abs=0.15)


def test_more_bits_keep_the_whole_range() -> None:
    assert range_of("t", SILU[0], recipe=INT16)[0] == pytest.approx(-20.0, abs=0.15)


def test_a_result_of_unknown_range_tells_all_apart() -> None:
    seen = {**SEEN, "y": (0.0, 0.0)}
    assert range_of("t", *SWISH, seen=seen)[0] == pytest.approx(-20.0, abs=0.15)


def sqnr_db(model: torch.nn.Module, calibrated: torch.Tensor, unseen: torch.Tensor) -> float:
    """Of a model in int8, against PyTorch, on samples that were not calibrated with."""
    made = edgeq.export(model, list(calibrated.numpy()), recipe="int8", progress=False)
    with made.session() as session, torch.no_grad():
        pairs = [(model(x).numpy(), session.run(x.numpy())) for x in unseen]
    wanted = np.concatenate([one for one, _ in pairs])
    found = np.concatenate([next(iter(one.values())) for _, one in pairs])
    return float(10 * np.log10((wanted**2).sum() / ((wanted - found) ** 2).sum()))


def test_integers_go_where_a_hard_swish_is_not_0() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 16, 1)
    with torch.no_grad():
        convolution.bias -= 8
        convolution.weight *= 8
    model = torch.nn.Sequential(convolution, torch.nn.Hardswish()).eval()
    drawn = torch.randn(64, 3, 8, 8)
    unseen_db = sqnr_db(model, drawn[:48, None], drawn[48:, None])
    assert unseen_db > 31.5  # 30.4 with integers for all that was seen, down to -33


class Cells(torch.nn.Module):
    """Steps of a GRU whose gates are mostly closed or open by inputs alone."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(8, 16)
        self.cell.weight_ih.data *= 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(1, 16)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


def test_integers_go_where_gates_are_neither_0_nor_1() -> None:
    """Gates read the sum of what is made of inputs and of states."""
    torch.manual_seed(0)
    model, drawn = Cells().eval(), torch.randn(96, 1, 4, 8)
    assert sqnr_db(model, drawn[:64], drawn[64:]) > 29.6  # 28.5 with integers for all that was seen
