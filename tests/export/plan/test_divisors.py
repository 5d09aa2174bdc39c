"""What is divided by, or the logarithm or root of: float where the data come near 0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.runtime.session import Session

ROWS, ROW = Value((1, 12, 16)), Value((1, 12, 1))
LAST = np.array([2], np.int32)

Array = npt.NDArray[np.float32]


def rectified_shares() -> OneOp:
    """`x / sum(relu(y) + 1e-5)`: all terms of a sum may round to 0, and then so does it."""
    steps = (
        Step("RELU", ("y",), {"positive": ROWS}),
        Step("ADD", ("positive", np.float32(1e-5)), {"safe": ROWS}),
        Step("SUM", ("safe", LAST), {"sum": ROW}, {"keepDims": True}),
        Step("DIV", ("x", "sum"), {"z": ROWS}),
    )
    return OneOp("shares", {"x": ROWS, "y": ROWS}, steps)


def norm(*last: Step) -> OneOp:
    """Rows over the root of their mean square."""
    steps = (
        Step("MUL", ("x", "x"), {"squares": ROWS}),
        Step("MEAN", ("squares", LAST), {"mean": ROW}, {"keepDims": True}),
        Step("ADD", ("mean", np.float32(1e-6)), {"safe": ROW}),
    )
    return OneOp("norm", {"x": ROWS, "y": ROWS}, (*steps, *last))


ROOT = norm(
    Step("SQRT", ("safe",), {"root": ROW}),
    Step("DIV", ("y", "root"), {"z": ROWS}),
)
RECIPROCAL = norm(
    Step("RSQRT", ("safe",), {"factor": ROW}),
    Step("MUL", ("y", "factor"), {"z": ROWS}),
)
POWER = norm(
    Step("POW", ("safe", np.float32(-0.25)), {"factor": ROW}),
    Step("MUL", ("y", "factor"), {"z": ROWS}),
)
LOGARITHM = norm(
    Step("LOG", ("safe",), {"level": ROW}),
    Step("ADD", ("y", "level"), {"z": ROWS}),
)


def drawn(case: OneOp, count: int, loudest: float) -> list[dict[str, Array]]:
    """Rows that are up to `loudest` times as loud as others."""
    generator = np.random.default_rng(count)
    data = case.draw(count)
    for sample in data:
        sample["x"] *= np.exp(generator.uniform(-np.log(loudest), 0, ROW.shape)).astype(np.float32)
        sample["y"] -= np.float32(2.5 if case.label == "shares" else 0)
    return data


def sqnr_db(made: edgeq.EdgeModel, data: list[dict[str, Array]]) -> float:
    """SQNR against the float file on other data; -infinity where a result is not finite."""
    power = noise = 0.0
    with made.session() as session, Session(made.float_model.tflite) as exact:
        for sample in data:
            (got,), (wanted,) = session.run(sample).values(), exact.run(sample).values()
            if not np.isfinite(got).all():
                return -np.inf
            power += float((wanted**2).sum())
            noise += float(((got - wanted) ** 2).sum())
    return float(10 * np.log10(power / max(noise, 1e-30)))


def exported(case: OneOp, loudest: float, **options: object) -> edgeq.EdgeModel:
    data = drawn(case, 20, loudest)
    settings: Mapping[str, object] = {"recipe": "int8", "min_sqnr_db": None, **options}
    return edgeq.export(case.build(), data, progress=False, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", ["int8", "auto"])
def test_a_sum_whose_terms_may_all_round_to_zero_is_float_with_them(recipe: str) -> None:
    case = rectified_shares()
    made = exported(case, 1.0, recipe=recipe)
    assert sqnr_db(made, drawn(case, 60, 1.0)) > 20
    floats = {place.split(" ")[0] for place in made.report.float_ops}
    assert {"SUM", "DIV"} <= floats


@pytest.mark.parametrize(
    "case", [ROOT, RECIPROCAL, POWER, LOGARITHM], ids=["div", "rsqrt", "pow", "log"]
)
def test_quiet_rows_keep_their_factor(case: OneOp) -> None:
    made = exported(case, 40.0)
    assert sqnr_db(made, drawn(case, 60, 40.0)) > 28
    assert "no bound near 0" in made.report.float_ops["ADD at safe (op 2)"]


def test_rows_of_like_loudness_stay_integers() -> None:
    assert exported(RECIPROCAL, 1.5).report.float_ops == {}


def test_what_must_be_integers_gets_a_sentence() -> None:
    made = exported(RECIPROCAL, 40.0, strict=True)
    assert made.report.float_ops == {}
    (note,) = [n for n in made.report.notes if "no bound near 0" in n]
    assert note.startswith("RSQRT at factor (op 3) must be integers")
    assert "add a larger constant" in note


@pytest.mark.parametrize("recipe", ["dynamic_int8", "weight_int8"])
def test_recipes_without_calibration_are_left_alone(recipe: str) -> None:
    made = exported(ROOT, 40.0, recipe=recipe)
    assert not any("no bound near 0" in why for why in made.report.float_ops.values())
