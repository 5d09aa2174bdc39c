"""States whose rounding adds up from step to step: what carries them is float, where it may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.export.edge_model import EdgeModel
from edgeq.runtime.session import Session

WIDTH, STEPS, SEQUENCES = 32, 48, 12

Array = npt.NDArray[np.float32]


def leaky(kept: float) -> bytes:
    """A step `h = kept * h + x * gains`: of `x` and `h`, both `(1, WIDTH)`."""
    row, random = Value((1, WIDTH)), np.random.default_rng(3)
    shares = np.full((1, WIDTH), kept, np.float32)
    gains = random.uniform(0.5, 1, (1, WIDTH)).astype(np.float32)
    steps = (
        Step("MUL", ("h", shares), {"left": row}),
        Step("MUL", ("x", gains), {"new": row}),
        Step("ADD", ("left", "new"), {"h_out": row}),
    )
    return OneOp("leaky", {"x": row, "h": row}, steps).build()


def drawn(seed: int) -> Array:
    found = np.random.default_rng(seed).normal(size=(SEQUENCES, STEPS, WIDTH))
    return found.astype(np.float32)


def exported(kept: float, **options: Any) -> EdgeModel:
    data = edgeq.Sequences(list(drawn(0)), {"h": "h_out"})
    given = {"recipe": "int8", "min_sqnr_db": None, "progress": False, **options}
    found = edgeq.export(leaky(kept), data, **given)
    assert isinstance(found, EdgeModel)
    return found


def kept_db(edge: EdgeModel) -> float:
    """SQNR of the state along unseen sequences."""
    signal = noise = 0.0
    port = next(port for port in edge.io.inputs if port.name == "h")
    with edge.session() as session, Session(edge.float_model.tflite) as exact:
        for sequence in drawn(1):
            plain, stream = exact.stream({"h": "h_out"}), session.stream()
            for x in sequence:
                plain.run({"x": x[None]}), stream.run({"x": x[None]}, real=True)
            error = plain.states["h"] - port.dequantize(stream.states["h"])
            signal += float(np.square(plain.states["h"]).sum())
            noise += float(np.square(error).sum())
    return float(10 * np.log10(signal / noise))


def test_a_state_that_is_kept_for_long_is_float() -> None:
    edge = exported(0.99)
    assert {place.split()[0] for place in edge.report.float_ops} == {"MUL", "ADD"}
    assert all("adds up" in why for why in edge.report.float_ops.values())
    assert edge.report.op_counts["int8"] == 1
    assert kept_db(edge) > 30


def test_a_state_that_is_soon_forgotten_is_integers() -> None:
    edge = exported(0.5)
    assert edge.report.float_ops == {}
    assert kept_db(edge) > 25


@pytest.mark.parametrize("options", [{"strict": True}, {"inputs": "int8", "outputs": "int8"}])
def test_what_shall_be_integers_is(options: dict[str, Any]) -> None:
    edge = exported(0.99, **options)
    assert edge.report.float_ops == {}
