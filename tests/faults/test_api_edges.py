"""Arguments of the wrong kind, paths that are none and data without an end: edgeq's own words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.data import rep_dataset
from edgeq.demo import float_model_path
from edgeq.errors import DataError, EdgeqError
from edgeq.runtime import Session, SessionPool

MODEL = str(float_model_path())
DATA = np.zeros((12, 1, 28, 28), np.float32)

OPTIONS: dict[str, tuple[object, ...]] = {
    "recipe": (5, "a\0b"), "target": (5,), "strict": ("x",), "calibration": ("a\0b",),
    "inputs": (5,), "layout": (5,), "min_sqnr_db": ("x",), "min_runtime": (5, 2.14),
    "measure": ("x",), "goal_db": ("x",), "costs": (5, "a\0b"), "threads": ("x", 0, 1.5),
}  # fmt: skip

CALLS: dict[str, Callable[[], object]] = {
    "a number for a model": lambda: edgeq.export(5, DATA),  # type: ignore[arg-type]
    "no path for a model": lambda: edgeq.export("a\0b", DATA),
    "a number for data": lambda: edgeq.export(MODEL, 5),  # type: ignore[arg-type]
    "text for data": lambda: edgeq.export(MODEL, "a\0b"),  # type: ignore[arg-type]
    "a number to lint": lambda: edgeq.lint(5),  # type: ignore[arg-type]
    "no path to lint": lambda: edgeq.lint("a\0"),
    "a number to dequantize": lambda: edgeq.dequantize(5),  # type: ignore[arg-type]
    "no path to dequantize": lambda: edgeq.dequantize("a\0b"),
    "a number to compare": lambda: edgeq.compare(MODEL, 5, DATA),  # type: ignore[arg-type]
    "text for threads": lambda: edgeq.compare(MODEL, MODEL, DATA, threads="x"),  # type: ignore[arg-type]
    "a number for thresholds": lambda: edgeq.check(MODEL, MODEL, DATA, 5),  # type: ignore[arg-type]
    "a number to run": lambda: Session(5),  # type: ignore[arg-type]
    "no path to run": lambda: Session("a\0b"),
    "a number for a delegate": lambda: Session(MODEL, 5),  # type: ignore[arg-type]
    "text for sessions": lambda: SessionPool(MODEL, sessions="x"),  # type: ignore[arg-type]
    "too few sessions": lambda: SessionPool(MODEL, sessions=-3),
    "a number for inputs": lambda: Session(MODEL).run(5),  # type: ignore[arg-type]
    "numbers for names": lambda: Session(MODEL).run({5: DATA}),  # type: ignore[dict-item]
    **{
        f"{name}={value!r}": lambda name=name, value=value: edgeq.export(  # type: ignore[misc]
            MODEL, DATA, **{name: value}
        )
        for name, values in OPTIONS.items()
        for value in values
    },
}  # fmt: skip


@pytest.mark.parametrize("case", CALLS)
def test_a_wrong_argument_is_told_in_edgeqs_words(case: str) -> None:
    with pytest.raises((EdgeqError, TypeError)) as told:
        CALLS[case]()
    if isinstance(told.value, TypeError):
        assert "Received: " in str(told.value)


def test_data_without_an_end_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rep_dataset, "MOST_ITEMS", 30)

    def endless() -> Iterator[Any]:
        return itertools.repeat(DATA[:1])

    with pytest.raises(DataError, match="the data has not ended after 30 items: let the generator"):
        edgeq.calibrate(MODEL, endless)
