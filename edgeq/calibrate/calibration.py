"""`Calibration`: what the representative data showed, as a value and as a readable file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.calibrate.observers import BUILT_IN, MinMax, Range
from edgeq.calibrate.peaks import Peaks
from edgeq.errors import DataError, ModelError
from edgeq.files import write_whole
from edgeq.foreign.documents import LARGE_BYTES, parse_json, read_text, shortened
from edgeq.model import LiteModel

FORMAT = "edgeq calibration"
VERSION = 2

MOST_COUNTS = 1 << 22
"""Numbers of an observer's array; a histogram has some thousand."""


@dataclass(frozen=True)
class Extremes:
    """The extremes of the two samples that reach farthest at each end; merging is exact.

    Attributes:
        low: The lowest of the samples' lowest values and the next one, as far as there are any.
        high: The highest of the samples' highest values and the next one, likewise.
    """

    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def merge(self, other: Extremes) -> Extremes:
        """Those of both one's samples."""
        return Extremes(
            tuple(sorted((*self.low, *other.low))[:2]),
            tuple(sorted((*self.high, *other.high), reverse=True)[:2]),
        )

    def resting_on_one(self) -> float:
        """Share of the range, 0 included, that is owed to a single sample at either end.

        Source:
            Robson and Whitlock, "Estimation of a truncation point" (1964): the gap between the two
            largest of a sample estimates what is still missing beyond the largest.
        """
        lows, highs = [min(v, 0.0) for v in self.low], [max(v, 0.0) for v in self.high]
        width = highs[0] - lows[0] if lows else 0.0
        return 1 - (highs[-1] - lows[-1]) / width if width else 0.0


@dataclass(frozen=True)
class Beyond:
    """Values of a tensor that integers cannot stand for.

    Attributes:
        low: Values that are -infinity or stand for it, as a mask's are.
        high: Values that are infinity or stand for it.
        nan: NaN.
    """

    low: bool = False
    high: bool = False
    nan: bool = False

    def merge(self, other: Beyond) -> Beyond:
        """Union of both."""
        return Beyond(self.low or other.low, self.high or other.high, self.nan or other.nan)


@dataclass(frozen=True)
class Calibration:
    """Ranges of a float model's tensors on the representative data.

    Attributes:
        model: SHA-256 of the float model that it belongs to.
        samples: Number of samples that were run.
        observers: What was seen of each tensor whose scale the data decides, by tensor index.
        extremes: How much of that rests on single samples, by tensor index.
        beyond: What tensors hold besides, which ranges leave out, by tensor index.
        tops: Of the largest values along the last axis of what a softmax reads, the lowest, by
            tensor index. Rows that are masked as a whole do not count.
        peaks: How far tensors went along the sequences of a model with states.
    """

    model: str
    samples: int
    observers: Mapping[int, Any]
    extremes: Mapping[int, Extremes] = field(default_factory=dict)
    beyond: Mapping[int, Beyond] = field(default_factory=dict)
    tops: Mapping[int, float] = field(default_factory=dict)
    peaks: Peaks = field(default_factory=Peaks)

    @cached_property
    def ranges(self) -> dict[int, Range]:
        """`(lowest, highest)` that the integers cover, by tensor index."""
        ranges = {}
        for tensor, observer in self.observers.items():
            pair = observer.range()
            if pair is not None:
                is_widest = isinstance(observer, MinMax)
                ranges[tensor] = self.peaks.lasting(tensor, pair) if is_widest else pair
        return ranges

    @cached_property
    def digest(self) -> str:
        """SHA-256 that names the ranges, and the model and number of samples they are of."""
        others = [*self.beyond.items(), *self.tops.items()]
        seen = [
            self.model,
            self.samples,
            sorted(self.ranges.items()),
            repr(sorted(others, key=repr)),
        ]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    def check_model(self, model: LiteModel) -> None:
        """Raises a `ModelError` unless this calibration was made from `model`."""
        if self.model != model.digest:
            raise ModelError(
                f"the calibration was made from another float model (its SHA-256 starts with "
                f"{self.model[:12]}, this model's with {model.digest[:12]}); calibrate again"
            )
        seen, count = (*self.observers, *self.beyond, *self.tops), len(model.graph.tensors)
        unknown = [tensor for tensor in seen if tensor >= count]
        if unknown:
            raise ModelError(
                f"the calibration names tensor {unknown[0]}, and the model has {count}; calibrate "
                "again"
            )

    def merge(self, other: Calibration) -> Calibration:
        """Merges two calibrations into the one that has seen the samples of both, `self` first.

        Raises:
            DataError: The two are of different models or observers, or of other settings.
        """
        if self.model != other.model or set(self.observers) != set(other.observers):
            raise DataError("calibrations of different float models cannot be merged")
        merged = {}
        for tensor, observer in self.observers.items():
            if type(observer) is not type(other.observers[tensor]):
                raise DataError(
                    f"tensor {tensor} was seen by {type(observer).__name__} in one calibration and "
                    f"by {type(other.observers[tensor]).__name__} in the other"
                )
            try:
                merged[tensor] = observer.merge(other.observers[tensor])
            except DataError as error:
                raise DataError(f"tensor {tensor}: {error}") from None
        extremes = {
            tensor: self.extremes.get(tensor, Extremes()).merge(
                other.extremes.get(tensor, Extremes())
            )
            for tensor in sorted({*self.extremes, *other.extremes})
        }
        found = Calibration(
            self.model, self.samples + other.samples, merged, extremes,
            peaks=self.peaks.merge(other.peaks),
        )  # fmt: skip
        return found.also_beyond(self).also_beyond(other)

    def also_beyond(self, other: Calibration) -> Calibration:
        """With what another one has seen beside ranges."""
        beyond, tops = dict(self.beyond), dict(self.tops)
        for tensor, one in other.beyond.items():
            beyond[tensor] = one.merge(beyond.get(tensor, one))
        for tensor, top in other.tops.items():
            tops[tensor] = min(top, tops.get(tensor, top))
        return dataclasses.replace(
            self, beyond=dict(sorted(beyond.items())), tops=dict(sorted(tops.items()))
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a JSON file, whole or not at all; equal calibrations give equal files."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "samples": self.samples,
            "tensors": {
                str(tensor): {
                    **_to_fields(self.observers[tensor]),
                    "range": self.ranges.get(tensor),
                    "extremes": _pair(self.extremes.get(tensor)),
                }
                for tensor in sorted(self.observers)
            },
            "beyond": {str(t): dataclasses.asdict(one) for t, one in self.beyond.items()},
            "tops": {str(tensor): top for tensor, top in self.tops.items()},
            "peaks": dataclasses.asdict(self.peaks),
        }
        return write_whole(path, (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str], observers: Sequence[type[Any]] = ()) -> Calibration:
        """Reads what `save` wrote.

        Args:
            path: The file.
            observers: Classes of your own that the file may name, besides edgeq's.

        Raises:
            DataError: Not such a file, of a newer version, or with an observer that is not there.
        """
        try:
            content = parse_json(read_text(path, LARGE_BYTES))
            if content["format"] != FORMAT:
                raise KeyError("format")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a calibration file: {error}") from None
        if content.get("version") != VERSION:
            raise DataError(
                f"{path} has version {content.get('version')}; this edgeq reads version {VERSION}"
            )
        try:
            kinds = {kind.__name__: kind for kind in (*BUILT_IN, *observers)}
            seen = {int(t): _from_fields(f, kinds) for t, f in content["tensors"].items()}
            extremes = {
                int(tensor): Extremes(*map(tuple, fields["extremes"]))
                for tensor, fields in content["tensors"].items()
                if fields.get("extremes") is not None
            }
            beyond = {int(t): Beyond(**one) for t, one in content.get("beyond", {}).items()}
            tops = {int(tensor): float(top) for tensor, top in content.get("tops", {}).items()}
            found = cls(
                str(content["model"]), int(content["samples"]), seen, extremes, beyond, tops,
                _peaks(**content.get("peaks", {})),
            )  # fmt: skip
            _check(found)
        except _UnknownObserverError as error:
            raise DataError(
                f"{path} names the observer {error}, which is not edgeq's: pass its class to load"
            ) from None
        except Exception as error:  # whatever a class makes of fields that are not its own
            raise DataError(f"{path} is damaged: {type(error).__name__}: {error}") from None
        return found


class _UnknownObserverError(Exception):
    """A file names a class that was not given."""


FLOAT32_MAX = float(np.finfo(np.float32).max)


def _check(calibration: Calibration) -> None:
    """Raises a `ValueError` or `TypeError` for what no run on data can have found."""
    if calibration.samples < 0:
        raise ValueError(f"samples is {calibration.samples}")
    wrong = [t for t in (*calibration.observers, *calibration.tops) if t < 0]
    if wrong:
        raise ValueError(f"no tensor has the number {wrong[0]}")
    for tensor, (low, high) in calibration.ranges.items():
        if not (_is_real(low) and _is_real(high) and low <= high):
            raise ValueError(f"tensor {tensor} has the range {shortened(low)} to {shortened(high)}")
    for tensor, extremes in calibration.extremes.items():
        if not all(map(_is_real, (*extremes.low, *extremes.high))):
            raise ValueError(f"the extremes of tensor {tensor} are {shortened(extremes)}")
    for tensor, beyond in calibration.beyond.items():
        if not all(isinstance(said, bool) for said in vars(beyond).values()):
            raise TypeError(f"tensor {tensor} has beside its range {shortened(beyond)}")
    peaks = calibration.peaks
    if peaks.low.keys() != peaks.high.keys():
        raise ValueError("its peaks have a low end or a high one without the other")
    for tensor, ends in (*peaks.low.items(), *peaks.high.items()):
        if len(ends) != len(peaks.steps) or not all(map(_is_real, ends)):
            raise ValueError(f"the peaks of tensor {tensor} are {shortened(ends)}")
    for tensor, top in calibration.tops.items():
        if not _is_real(top):
            raise ValueError(f"tensor {tensor} has the top {shortened(top)}")


def _is_real(value: object) -> bool:
    """Whether it is a number that a float32 tensor can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= FLOAT32_MAX


def _pair(extremes: Extremes | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    return None if extremes is None else (extremes.low, extremes.high)


def _peaks(
    steps: Sequence[int] = (),
    low: Mapping[str, Sequence[float]] | None = None,
    high: Mapping[str, Sequence[float]] | None = None,
) -> Peaks:
    """Peaks of what a file says of them."""
    ends = ({int(t): tuple(row) for t, row in (side or {}).items()} for side in (low, high))
    return Peaks(tuple(map(int, steps)), *ends)


def _to_fields(observer: Any) -> dict[str, Any]:
    """An observer as JSON: its class and the fields of its dataclass."""
    kind = type(observer)
    if not dataclasses.is_dataclass(observer):
        raise DataError(
            f"the observer {kind.__name__} cannot be saved: make it a dataclass whose fields are "
            "numbers, arrays or other observers"
        )
    fields = {f.name: _to_json(getattr(observer, f.name)) for f in dataclasses.fields(observer)}
    return {"observer": kind.__name__, **fields}


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1)
        pairs = {int(i): flat[i].item() for i in np.flatnonzero(flat)}
        return {"shape": list(value.shape), "dtype": value.dtype.name, "filled": pairs}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_to_json(item) for item in value]
    return _to_fields(value) if dataclasses.is_dataclass(value) else value


def _from_fields(fields: Mapping[str, Any], kinds: Mapping[str, type[Any]]) -> Any:
    if fields["observer"] not in kinds:
        raise _UnknownObserverError(repr(fields["observer"]))
    kind = kinds[fields["observer"]]
    names = {f.name for f in dataclasses.fields(kind)}
    return kind(**{k: _from_json(v, kinds) for k, v in fields.items() if k in names})


def _from_json(value: Any, kinds: Mapping[str, type[Any]]) -> Any:
    if isinstance(value, Mapping) and "filled" in value:
        kind, size = np.dtype(str(value["dtype"])), math.prod(value["shape"])
        if kind.kind not in "iuf" or not 0 <= size <= MOST_COUNTS:
            raise ValueError(f"an array of {shortened(value['shape'])} {kind.name}")
        array = np.zeros(value["shape"], kind)
        for index, number in value["filled"].items():
            array.reshape(-1)[int(index)] = number
        return array
    if isinstance(value, Mapping):
        return _from_fields(value, kinds)
    return tuple(_from_json(v, kinds) for v in value) if isinstance(value, list) else value
