"""Calibration on many machines: shards of the data are calibrated, their calibrations merged."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.run import Calibrator
from edgeq.data.cluster import map_shards
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import Sample
from edgeq.data.rows import Rows
from edgeq.model import LiteModel


def calibrate(
    model: LiteModel,
    rows: Rows,
    observers: Mapping[int, Any] | None = None,
    threads: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Calibration:
    """Measures every sample, on all machines of the Ray cluster that this process belongs to.

    The result is that of one process, bit for bit, if the machines' processors are alike and the
    observers do not depend on the order; that of a `MovingAverage` may differ in the last bits, as
    sums of floats are then grouped otherwise.

    Args:
        model: The float model.
        rows: The representative data.
        observers: As for `Calibrator`.
        threads: Threads, and so CPUs, of one task; None is one.
        advance: Called for each item that has been run.

    Raises:
        DataError: As for `Calibrator` and `map_shards`.
        DependencyError: Ray is not installed.
        EdgeqError: A shard's workers died again and again.
    """
    work = _Calibration(model, dict(observers or {}), threads or 1)
    parts = map_shards(work, rows, input_specs(model), threads, advance)
    return functools.reduce(Calibration.merge, parts)


@dataclass(frozen=True)
class _Calibration:
    """Calibrates one shard."""

    model: LiteModel
    observers: Mapping[int, Any]
    threads: int

    def __call__(self, samples: Iterator[Sample]) -> Calibration:
        return Calibrator(self.model, self.threads, self.observers).run(samples)
