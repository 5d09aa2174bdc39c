"""What models of one file have in common: found by content, planned and rounded alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from one_op import OneOp, Step, Value

from edgeq.export.plan.choices import Choice, choose
from edgeq.export.plan.quantization_plan import Plan, Stored
from edgeq.export.round.common_weights import CommonWeights, Party
from edgeq.model import LiteModel
from edgeq.qtypes import DType, QParams
from edgeq.recipe import AUTO, Mode

Array = npt.NDArray[np.float32]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


SHARED = draw(32, 32)


def model(rows: int, second: str = "FULLY_CONNECTED", factor: float = 1.0) -> LiteModel:
    """A layer that is common, and behind it one of its own, or a product with the same matrix."""
    made = Value((rows, 32))
    weight = draw(32, 32, seed=rows) if second == "FULLY_CONNECTED" else SHARED
    steps = (
        Step("FULLY_CONNECTED", ("x", SHARED * np.float32(factor)), {"a": made}),
        Step(second, ("a", weight), {"y": made}),
    )
    return LiteModel(OneOp("common", {"x": made}, steps).build(), "tflite")


def common(*models: LiteModel) -> CommonWeights:
    weights = CommonWeights()
    for each in models:
        weights.add(Party(each, choose(each, AUTO), []))
    return weights


def test_what_two_models_read_is_common() -> None:
    one, other = model(2), model(3)
    weights = common(one, other)
    for each in (one, other):
        ((tensor, digest),) = weights.of(each.graph).items()
        assert tensor == each.graph.operators[0].inputs[1]
        assert weights.are_fitted(digest)
        assert weights.readers(each.graph) == {0}
    assert common(one).of(one.graph) == {}


def test_what_is_used_in_another_way_is_not_fitted() -> None:
    one, other = model(2), model(32, "BATCH_MATMUL")
    weights = common(one, other)
    (digest,) = weights.of(one.graph).values()
    assert not weights.are_fitted(digest)


def test_a_search_stores_common_weights_as_the_first_model_does() -> None:
    one, other = model(2), model(3)
    weights = common(one, other)
    choices = choose(other, AUTO)
    assert weights.decided(other.graph, choices) == choices
    qparams = QParams(DType.INT8, (0.1,), (0,))
    plan = Plan({}, {}, {}, {(i, 1): Stored(qparams, dynamic=True) for i in (0, 1)})
    weights.decide(one.graph, plan)
    found = weights.decided(other.graph, choices)
    assert found[0].mode is Mode.DYNAMIC_INT8
    assert found[1] == choices[1]
    asked = {**choices, 0: Choice(Mode.FLOAT, "asked for")}
    assert weights.decided(other.graph, asked)[0].mode is Mode.FLOAT


def test_what_differs_in_the_last_bits_alone_is_made_common() -> None:
    one, other, third = model(2), model(3, factor=1 + 2e-7), model(4, factor=1 + 1e-4)
    weights = common(one)
    assert weights.aligned(third) is third
    made = weights.aligned(other)
    assert other.graph.tensors[1].data is not None
    assert not np.array_equal(other.graph.tensors[1].data, SHARED)
    weights.add(Party(made, choose(made, AUTO), []))
    assert list(weights.of(one.graph).values()) == list(weights.of(made.graph).values())
    assert weights.readers(made.graph) == {0}
    assert CommonWeights().aligned(other) is other
