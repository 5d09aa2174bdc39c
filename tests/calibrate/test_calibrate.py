"""Ranges measured in the graph equal those computed outside, and do not move without a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from one_op import CASES, OneOp, Step, Value

import edgeq
from edgeq.calibrate.calibration import Beyond, Calibration
from edgeq.calibrate.observers import MinMax, as_observer
from edgeq.calibrate.run import Calibrator, probes
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import Sample
from edgeq.errors import DataError, ModelError
from edgeq.flatbuffer import pack, unpack
from edgeq.model import LiteModel
from edgeq.runtime.backend import load_backend
from edgeq.runtime.session import Session

Images = npt.NDArray[np.float32]
Range = tuple[float, float]

IMAGE = Value((1, 4, 4, 2))


def chain(*steps: Step) -> LiteModel:
    return LiteModel(OneOp("chain", {"x": IMAGE}, steps).build(), "tflite")


def one(name: str, shape: tuple[int, ...] = (1, 4)) -> LiteModel:
    """A model of one op without operands of its own."""
    step = Step(name, ("x",), {"y": Value(shape)}, {})
    return LiteModel(OneOp(name, {"x": Value(shape)}, (step,)).build(), "tflite")


def floats(values: object) -> Images:
    return np.asarray(values, np.float32)


def case(label: str) -> OneOp:
    return next(c for c in CASES if c.label == label)


def every_tensor(model: LiteModel, samples: Iterator[Sample]) -> dict[int, Range]:
    """Ranges by plain kernels that keep every tensor, and numpy."""
    module = load_backend().module
    interpreter = module.Interpreter(
        model_content=model.tflite,
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    wanted = [t.index for t in model.graph.tensors if t.dtype == "float32" and not t.is_constant]
    found = dict.fromkeys(wanted, (np.inf, -np.inf))
    for sample in samples:
        for tensor, array in zip(model.graph.inputs, sample, strict=True):
            interpreter.set_tensor(tensor, array)
        interpreter.invoke()
        for tensor, (low, high) in found.items():
            value = interpreter.get_tensor(tensor)
            found[tensor] = (min(low, float(value.min())), max(high, float(value.max())))
    return found


def assert_close(found: Mapping[int, Range], expected: Mapping[int, Range], rel: float) -> None:
    assert found.keys() == expected.keys()
    for tensor, (low, high) in expected.items():
        bound = rel * max(abs(low), abs(high))
        assert found[tensor] == pytest.approx((low, high), rel=0, abs=bound), tensor


def test_ranges_equal_those_computed_outside_the_graph(
    demo_model: LiteModel, demo_images: Images, demo_calibration: Calibration
) -> None:
    computed = every_tensor(demo_model, ((image[None],) for image in demo_images))
    watched = probes(demo_model.graph)
    assert len(watched) > 20
    expected = {
        p.tensor: (computed[p.tensor][0] if p.minimum else 0.0, computed[p.tensor][1])
        for p in watched
    }
    assert all(computed[p.tensor][0] >= 0 for p in watched if not p.minimum)
    assert_close(demo_calibration.ranges, expected, rel=1e-5)
    assert demo_calibration.samples == len(demo_images)
    assert demo_calibration.model == demo_model.digest


@pytest.mark.parametrize(
    "label",
    ["FULLY_CONNECTED", "BATCH_MATMUL", "SPLIT", "UNPACK", "GATHER/constant table", "LESS", "ABS"],
)
def test_ranges_of_small_models_equal_those_computed_outside(label: str) -> None:
    small = case(label)
    model = LiteModel(small.build(), "tflite")
    samples = [tuple(sample.values()) for sample in small.draw(5)]
    computed = every_tensor(model, iter(samples))
    expected = {
        p.tensor: (computed[p.tensor][0] if p.minimum else 0.0, computed[p.tensor][1])
        for p in probes(model.graph)
    }
    assert_close(Calibrator(model, threads=1).run(samples).ranges, expected, rel=1e-5)


class Whole(MinMax):
    """Min-max of the values themselves, as an observer sees them that needs them all."""

    only_extremes: ClassVar[bool] = False

    def merge(self, other: MinMax) -> Whole:
        found = super().merge(other)
        return Whole(found.low, found.high)


@pytest.mark.parametrize("small", CASES, ids=lambda small: small.label)
def test_observers_are_given_the_values_whose_extremes_the_graph_measures(small: OneOp) -> None:
    model = LiteModel(small.build(), "tflite")
    samples = [tuple(sample.values()) for sample in small.draw(3)]
    watched = probes(model.graph)
    given = Calibrator(model, 1, {p.tensor: Whole() for p in watched}).run(samples).ranges
    expected = dict(Calibrator(model, 1).run(samples).ranges)
    for probe in watched:
        if not probe.minimum:
            expected[probe.tensor] = (given[probe.tensor][0], expected[probe.tensor][1])
            assert given[probe.tensor][0] >= 0
    assert given == expected


def test_what_is_watched() -> None:
    """Inputs, and outputs but those that only move values; the minimum where it may be negative."""
    axis = {"axis": 3}
    wide = Value((1, 4, 4, 4))
    model = chain(
        Step("RELU", ("x",), {"positive": IMAGE}, {}),
        Step("LOGISTIC", ("x",), {"fixed": IMAGE}, {}),
        Step("ADD", ("positive", "fixed"), {"sum": IMAGE}, {}),
        Step("CONCATENATION", ("sum", "positive"), {"same": wide}, axis),
    )
    names = {p.tensor: model.graph.tensors[p.tensor].name for p in probes(model.graph)}
    watched = [(names[p.tensor], p.minimum) for p in probes(model.graph)]
    assert watched == [("x", True), ("positive", False), ("fixed", False), ("sum", True)]


def test_the_model_still_gives_its_own_outputs_first(
    demo_model: LiteModel, demo_images: Images
) -> None:
    measured = Calibrator(demo_model).instrumented.tflite
    with Session(demo_model.tflite) as plain, Session(measured) as instrumented:
        for session in (plain, instrumented):
            session.invoke((demo_images[:1],))
        expected = plain.outputs()
        assert len(expected) == len(demo_model.graph.outputs)
        for found, wanted in zip(instrumented.outputs(), expected, strict=False):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_order_of_samples_does_not_matter(
    demo_model: LiteModel, demo_images: Images, demo_calibration: Calibration
) -> None:
    backwards = Calibrator(demo_model, threads=1).run((i[None],) for i in demo_images[::-1])
    assert backwards == demo_calibration


def test_the_memory_layout_of_a_sample_does_not_matter(
    demo_model: LiteModel, demo_images: Images, demo_calibration: Calibration
) -> None:
    other = Calibrator(demo_model, threads=1).run(
        (np.asfortranarray(i[None]),) for i in demo_images
    )
    assert other == demo_calibration


@pytest.mark.parametrize("threads", [2, 3, None])
def test_the_number_of_threads_does_not_matter(
    threads: int | None,
    demo_model: LiteModel,
    demo_images: Images,
    demo_calibration: Calibration,
) -> None:
    found = Calibrator(demo_model, threads).run((image[None],) for image in demo_images)
    assert_close(found.ranges, demo_calibration.ranges, rel=1e-6)


def test_more_samples_never_narrow_a_range(
    demo_model: LiteModel, demo_images: Images, demo_calibration: Calibration
) -> None:
    few = Calibrator(demo_model, threads=1).run((image[None],) for image in demo_images[:5])
    assert few.ranges.keys() == demo_calibration.ranges.keys()
    for tensor, (low, high) in demo_calibration.ranges.items():
        assert low <= few.ranges[tensor][0]
        assert few.ranges[tensor][1] <= high
    assert few.ranges != demo_calibration.ranges


def test_calibrate_reads_every_sample(
    demo_model: LiteModel, demo_images: Images, demo_calibration: Calibration
) -> None:
    """The public function holds nothing back."""
    assert edgeq.calibrate(demo_model.tflite, demo_images, threads=1) == demo_calibration


def good_and_bad(value: float) -> list[tuple[np.ndarray]]:
    good, bad = np.ones((1, 4), np.float32), np.ones((1, 4), np.float32)
    bad[0, 2] = value
    return [(good,), (bad,)]


def test_outputs_that_are_no_numbers_are_named() -> None:
    message = r"sample 1: SQRT at y \(op 0\) gives NaN in the float model itself"
    with pytest.raises(DataError, match=message):
        Calibrator(one("SQRT"), threads=1).run(good_and_bad(-1.0))


@pytest.mark.parametrize(
    ("op", "value", "beyond"), [("EXP", 100.0, Beyond(high=True)), ("LOG", 0.0, Beyond(low=True))]
)
def test_outputs_that_overflow_are_known(op: str, value: float, beyond: Beyond) -> None:
    model = one(op)
    (output,) = model.graph.outputs
    assert Calibrator(model, threads=1).run(good_and_bad(value)).beyond[output] == beyond


def test_an_infinite_input_is_named_as_the_input() -> None:
    with pytest.raises(DataError, match="sample 0: an input gives -inf in the float model itself"):
        Calibrator(one("ABS")).run([(floats([[-np.inf, 0, 0, 0]]),)])


def logarithm_inside() -> LiteModel:
    """`relu(log(x))`, whose logarithm has infinite values that nobody sees."""
    x = Value((1, 4), low=0.0)
    steps = (Step("LOG", ("x",), {"log": x}), Step("RELU", ("log",), {"y": x}))
    return LiteModel(OneOp("inside", {"x": x}, steps).build(), "tflite")


@pytest.mark.parametrize("observer", ["minmax", "percentile", "moving_average"])
@pytest.mark.parametrize("threads", [1, 2])
def test_ranges_inside_the_model_are_those_of_finite_values(observer: str, threads: int) -> None:
    model = logarithm_inside()
    (log,) = (t.index for t in model.graph.tensors if t.name == "log")
    samples = [
        (floats([row]),) for row in ([1, 2, 1, 3], [0, 1, 0.5, 1], [0, 0, 0, 0], [-1, 1, 1, 1])
    ]
    watching = {log: as_observer(observer)}
    found = Calibrator(model, threads, watching).run(samples)
    assert found.beyond == {log: Beyond(low=True, nan=True)}
    low, high = found.ranges[log]
    if observer == "minmax":
        assert (low, high) == (pytest.approx(np.log(0.5)), pytest.approx(np.log(3)))
    assert np.isfinite([low, high]).all()
    parts = [Calibrator(model, threads, watching).run(part) for part in (samples[:2], samples[2:])]
    assert parts[0].merge(parts[1]).beyond == found.beyond
    assert Calibrator(model, threads, watching).run(samples[2:], start=parts[0]) == found


def test_values_beyond_integers_are_told_in_the_file(tmp_path: Path) -> None:
    found = Calibrator(logarithm_inside()).run([(floats([[0, 1, 2, 3]]),)])
    assert Calibration.load(found.save(tmp_path / "c.json")) == found


def test_the_lowest_top_of_scores_is_measured_without_rows_that_are_masked() -> None:
    x = Value((1, 3, 4))
    model = LiteModel(OneOp("SOFTMAX", {"x": x}, (Step("SOFTMAX", ("x",), {"y": x}),)).build(), "")
    rows = [[1, -1e9, 3, 2], [-1, -np.finfo(np.float32).max, -4, -2], [-1e9] * 4]
    found = Calibrator(model).run([(floats([rows]),), (floats([[[5, 6, 7, 8]] * 3]),)])
    assert found.tops == {0: -1.0}


def test_no_samples_give_no_ranges() -> None:
    model = one("ABS")
    found = Calibrator(model).run([])
    assert (found.samples, found.ranges, found.model) == (0, {}, model.digest)
    assert set(found.observers.values()) == {MinMax()}


def with_shape(shape: Sequence[int]) -> LiteModel:
    """A one-op model whose input has another shape signature."""
    tree = unpack(one("ABS").tflite)
    tree.subgraphs[0].tensors[0].shapeSignature = np.asarray(shape, np.int32)
    return LiteModel(pack(tree), "tflite")


def test_a_dynamic_input_is_refused() -> None:
    with pytest.raises(ModelError, match=r"input 'x' has the dynamic shape \(-1, 4\); export the"):
        input_specs(with_shape((-1, 4)))


def test_inputs_are_described_in_the_graphs_order(demo_model: LiteModel) -> None:
    (spec,) = input_specs(demo_model)
    tensor = demo_model.graph.tensors[demo_model.graph.inputs[0]]
    assert (spec.shape, spec.dtype) == (tensor.shape, "float32")
    select = LiteModel(case("SELECT_V2").build(), "tflite")
    assert [(s.name, s.dtype) for s in input_specs(select)] == [
        ("x0", "bool"), ("x1", "float32"), ("x2", "float32"),
    ]  # fmt: skip
