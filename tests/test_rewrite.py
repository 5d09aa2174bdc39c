"""Every rewrite: the same numbers before and after, and more of the int8 model in the delegate."""

from __future__ import annotations

import numpy as np
import pytest
from one_op import Array, OneOp
from rewrite_cases import CASES, Rewritten

from edgeq.calibrate.run import Calibrator
from edgeq.compare import Fidelity
from edgeq.export.convert import convert, start_converter
from edgeq.export.plan import make_plan
from edgeq.export.rewrite import REWRITES, rewrite
from edgeq.export.verify import check_float_ops
from edgeq.export.exported import Exported
from edgeq.flatbuffer import parse
from edgeq.isolation import Worker
from edgeq.model import FloatModel
from edgeq.recipe import INT8
from edgeq.runtime.session import Coverage, Session

SAMPLES = 20
ROUNDING = 1e-6
"""Largest difference, as a share of the largest output."""
LOSS_DB = 1.0


@pytest.fixture(scope="module")
def converter():
    with start_converter() as worker:
        yield worker


def _outputs(tflite: bytes, case: OneOp) -> dict[str, list[Array]]:
    found: dict[str, list[Array]] = {}
    with Session(tflite, threads=1) as session:
        for sample in case.draw(SAMPLES):
            for name, array in session.run(sample).items():
                found.setdefault(name, []).append(array)
    return found


def _int8(worker: Worker, model: FloatModel, case: OneOp) -> bytes:
    samples = [tuple(sample.values()) for sample in case.draw(SAMPLES)]
    calibration = Calibrator(model, threads=1).run(samples)
    plan = make_plan(model, calibration, INT8)
    tflite = convert(worker, model, plan)
    check_float_ops(Exported(model, parse(tflite).graphs[0]), plan)
    return tflite


def _judged(tflite: bytes, expected: dict[str, list[Array]], case: OneOp) -> tuple[float, Coverage]:
    actual = _outputs(tflite, case)
    lowest = np.inf
    for name, arrays in expected.items():
        fidelity = Fidelity()
        for one, other in zip(arrays, actual[name], strict=True):
            fidelity = fidelity.observe(one, other)
        lowest = min(lowest, fidelity.sqnr_db)
    with Session(tflite, threads=1) as session:
        return lowest, session.coverage()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_rewrite(case: Rewritten, converter: Worker) -> None:
    model = FloatModel(case.model.build(), "tflite")
    rewritten = rewrite(model)
    assert tuple(op.name for op in rewritten.graph.operators) == case.ops
    expected, actual = _outputs(model.tflite, case.model), _outputs(rewritten.tflite, case.model)
    assert set(actual) == set(expected)
    for name, arrays in expected.items():
        largest = np.abs(arrays).max()
        np.testing.assert_allclose(actual[name], arrays, rtol=0, atol=ROUNDING * largest)
    sqnr_db, coverage = _judged(_int8(converter, rewritten, case.model), expected, case.model)
    print(case.label, f"{sqnr_db:.1f} dB {len(coverage.delegated)}/{coverage.total} p{coverage.partitions}", end=" ")
    if case.is_delegated:
        assert len(coverage.delegated) == coverage.total
    if case.has_int8:
        before_db, before = _judged(_int8(converter, model, case.model), expected, case.model)
        print(f"before {before_db:.1f} dB {len(before.delegated)}/{before.total} p{before.partitions}", end="")
        assert sqnr_db >= before_db - LOSS_DB
    print()
