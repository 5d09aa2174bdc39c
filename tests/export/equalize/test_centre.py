"""Channels without their means: the numbers stay, ranges are narrower, and int8 loses less."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.calibrate.channel_statistics import channel_statistics
from edgeq.calibrate.run import Calibrator
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.errors import ModelError
from edgeq.export.deploy.scales_entry import SHIFTS_ENTRY, read_shifts
from edgeq.export.equalize.centre import centred, shiftable, shifted_as
from edgeq.model import LiteModel
from edgeq.recipe import INT8
from edgeq.runtime.session import outputs_of

Array = npt.NDArray[Any]
WIDTH = 16
ROWS = Value((32, WIDTH))
RANDOM = np.random.default_rng(3)
RELU = 1


def dense(source: str, made: str, far: float = 0.0, **options: object) -> Step:
    """A layer whose channels are around constants that are so far apart."""
    weight = RANDOM.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 4
    bias = RANDOM.uniform(-far, far, WIDTH).astype(np.float32)
    return Step("FULLY_CONNECTED", (source, weight, bias), {made: ROWS}, options)


def added(one: str, other: str, made: str) -> Step:
    return Step("ADD", (one, other), {made: ROWS})


NETWORK = OneOp(
    "sums",
    {"x": ROWS},
    (
        dense("x", "a", 8.0), dense("a", "b", 8.0), added("a", "b", "s"),
        dense("s", "h", 2.0, fusedActivationFunction=RELU), dense("h", "y"),
    ),
)  # fmt: skip
MODEL = LiteModel(NETWORK.build(), "tflite")


def arrays(count: int) -> list[Array]:
    random = np.random.default_rng(7)
    return [random.normal(size=(32, WIDTH)).astype(np.float32) for _ in range(count)]


def samples(count: int = 8) -> list[Sample]:
    return list(RepDataset(arrays(count)).samples(input_specs(MODEL)))


def names_of(model: LiteModel, tensors: Sequence[int]) -> set[str]:
    return {model.graph.tensors[t].name for t in tensors}


def test_means_are_taken_off_and_the_numbers_stay() -> None:
    calibration = Calibrator(MODEL, 1).run(samples())
    made, moved, tensors = centred(MODEL, calibration, (), samples(), 1)
    assert names_of(MODEL, tensors) == {"a", "b", "s"}
    for sample in samples(2):
        before, after = (outputs_of(m.tflite, sample)["y"] for m in (MODEL, made))
        np.testing.assert_allclose(after, before, atol=1e-4)
    seen = channel_statistics(made, list(tensors), samples(), 1)
    for tensor in tensors:
        assert np.abs(seen[tensor].mean).max() < 0.02
        low, high = moved.ranges[tensor]
        assert (low, high) == pytest.approx((seen[tensor].low[0].min(), seen[tensor].high[0].max()))
        below, above = calibration.ranges[tensor]
        assert high - low < 0.7 * (above - below)


def test_int8_loses_less() -> None:
    centre, plain = (
        edgeq.export(
            MODEL.tflite, arrays(40), recipe=recipe, progress=False, min_sqnr_db=None
        ).report
        for recipe in (INT8, INT8.__class__("plain", equalize=False))
    )
    assert any("channels of 3 tensors are a constant less" in note for note in centre.notes)
    assert centre.sqnr_db > plain.sqnr_db + 2


def test_a_dead_layer_stays_as_it_is() -> None:
    zeros = np.zeros((WIDTH, WIDTH), np.float32)
    dead = Step("FULLY_CONNECTED", ("x", zeros, zeros[0]), {"a": ROWS})
    model = LiteModel(OneOp("dead", {"x": ROWS}, (dead, dense("a", "y"))).build(), "tflite")
    assert shiftable(model.graph, ())
    calibration = Calibrator(model, 1).run(samples())
    assert centred(model, calibration, (), samples(), 1) == (model, calibration, ())


def conv(kernel: int, **options: object) -> Step:
    weight = RANDOM.normal(size=(4, kernel, kernel, 4)).astype(np.float32)
    stride = {"strideH": 1, "strideW": 1, **options}
    made = Value((1, 8, 8, 4))
    return Step("CONV_2D", ("a", weight, np.zeros(4, np.float32)), {"y": made}, stride)


IMAGE = Value((1, 8, 8, 4))
POINTWISE = Step(
    "CONV_2D",
    ("x", RANDOM.normal(size=(4, 1, 1, 4)).astype(np.float32), np.zeros(4, np.float32)),
    {"a": IMAGE},
    {"strideH": 1, "strideW": 1},
)
READERS = {
    "a pointwise convolution": ((conv(1),), {"a"}),
    "a convolution that may see padding": ((conv(3),), set()),
    "an activation": ((Step("TANH", ("a",), {"y": IMAGE}),), set()),
    "a sum that something else reads": (
        (Step("ADD", ("a", "x"), {"s": IMAGE}), Step("TANH", ("s",), {"y": IMAGE})), set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_only_what_every_reader_makes_up_for_is_shifted(reader: str) -> None:
    steps, wanted = READERS[reader]
    model = LiteModel(OneOp(reader, {"x": IMAGE}, (POINTWISE, *steps)).build(), "tflite")
    assert names_of(model, shiftable(model.graph, ())) == wanted
    assert shiftable(model.graph, (0,)) == []


def test_a_file_says_its_shifts() -> None:
    made, *_ = centred(MODEL, Calibrator(MODEL, 1).run(samples()), (), samples(), 1)
    shifts = read_shifts(made.tree)
    assert shifts.keys() == {"a", "b"}
    assert shifted_as(MODEL, shifts).digest == made.digest
    assert shifted_as(made, shifts) is made
    for other in ({"other": shifts["a"]}, {"a": shifts["a"][1:]}):
        assert shifted_as(MODEL, other) is MODEL
    tree = copy.copy(made.tree)
    tree.buffers = [copy.copy(buffer) for buffer in tree.buffers]
    (place,) = (entry.buffer for entry in tree.metadata if entry.name == SHIFTS_ENTRY)
    for content in (b"no JSON", b"[1]", b'{"a": "~"}', b'{"a": "QUE="}'[:-3] + b'E"}'):
        tree.buffers[place].data = np.frombuffer(content, np.uint8)
        with pytest.raises(ModelError, match=r"edgeq_channel_shifts\) cannot be read: .* again"):
            read_shifts(tree)


def test_debug_reads_the_shifts_of_a_file() -> None:
    edge = edgeq.export(MODEL.tflite, arrays(40), recipe="int8", progress=False)
    by_itself, by_file = (
        edgeq.debug(edge.float_model, one, arrays(4), progress=False).layers
        for one in (edge, edge.tflite)
    )
    assert by_file == by_itself
