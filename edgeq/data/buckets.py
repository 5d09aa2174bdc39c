"""`Buckets`: data of inputs whose length differs, for a file with a signature for each length.

Knows how samples are cut and filled up, nothing of what runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from edgeq.data.as_numpy import Array, array_of
from edgeq.data.rep_dataset import item_iterator
from edgeq.errors import DataError


class Buckets:
    """Representative data of a model that is exported for several lengths of its inputs.

    Each length gets the samples that are longer than the next shorter one: what is shorter is
    filled up with `pad` behind its end, what is longer is cut. All samples are held in memory.

    Args:
        samples: What `rep_dataset` can be, of any lengths: an iterable of arrays, tuples or dicts.
        lengths: Of each signature by its key, such as `{"10s": 1000, "30s": 3000}`.
        axis: The axis of samples that has the length; by input, its name or place, where not all
            inputs have it.
        pad: What fills samples up, in real numbers; by input likewise, 0 where nothing is said.

    Raises:
        DataError: A length, axis or value is none, or there are fewer than two lengths.
    """

    def __init__(
        self,
        samples: Any,
        lengths: Mapping[str, int],
        axis: int | Mapping[Any, int],
        pad: float | Mapping[Any, float] = 0.0,
    ) -> None:
        _check(lengths, axis, pad)
        self.lengths = dict(sorted(lengths.items(), key=lambda pair: pair[1]))
        self.axis = axis
        self.pad = pad
        self._items = list(item_iterator(samples))

    def by_key(self) -> dict[str, list[Any]]:
        """Samples of each length by signature key, the shortest first.

        Raises:
            DataError: A length has no samples, or a sample has not the axis.
        """
        sizes = [self._length(item, index) for index, item in enumerate(self._items)]
        found, shorter = {}, 0
        for key, length in self.lengths.items():
            items = [i for i, size in zip(self._items, sizes, strict=True) if size > shorter]
            if not items:
                raise DataError(
                    f"bucket {key!r}: no sample is longer than {shorter}; give some, or leave the "
                    f"bucket out. Received: {len(sizes)} samples of up to {max(sizes, default=0)}"
                )
            found[key] = [self._fitted(item, length) for item in items]
            shorter = length
        return found

    def _length(self, item: Any, index: int) -> int:
        sizes: list[int] = []

        def note(name: Any, array: Array) -> Array:
            axis = self._axis(name)
            if axis is not None:
                if not -array.ndim <= axis < array.ndim:
                    raise DataError(
                        f"sample {index}, input {name!r}: it has no axis {axis}; give axis by "
                        f"input. Received: shape {array.shape}"
                    )
                sizes.append(array.shape[axis])
            return array

        _mapped(item, note)
        return max(sizes, default=0)

    def _fitted(self, item: Any, length: int) -> Any:
        """A sample cut or filled up to a length."""

        def fitted(name: Any, array: Array) -> Array:
            axis = self._axis(name)
            if axis is None:
                return array
            return filled_up(array, axis, length, _of(self.pad, name, 0.0))

        return _mapped(item, fitted)

    def _axis(self, name: Any) -> int | None:
        found: int | None = _of(self.axis, name, None)
        return found


def filled_up(array: Array, axis: int, length: int, value: float) -> Array:
    """An array cut to a length along an axis, or filled up behind its end."""
    kept = np.take(array, range(min(length, array.shape[axis])), axis)
    missing = length - kept.shape[axis]
    if not missing:
        return kept
    margins = [(0, 0)] * kept.ndim
    margins[axis] = (0, missing)
    made: Array = np.pad(kept, margins, constant_values=value).astype(kept.dtype, copy=False)
    return made


def pads_by_name(pad: float | Mapping[Any, float], names: Sequence[str]) -> dict[str, float]:
    """What fills up each input, of which `pad` may have the name or the place."""
    return {name: float(_of(pad, name, _of(pad, place, 0.0))) for place, name in enumerate(names)}


def _of(setting: Any, name: Any, default: Any) -> Any:
    return setting.get(name, default) if isinstance(setting, Mapping) else setting


def _mapped(item: Any, change: Callable[[Any, Array], Array]) -> Any:
    """A sample whose arrays are changed by name or place; an array alone is at place 0."""
    if isinstance(item, Mapping):
        return {name: change(name, array_of(a, f"input {name!r}")) for name, a in item.items()}
    if isinstance(item, tuple | list):
        return tuple(change(i, array_of(a, f"input {i}")) for i, a in enumerate(item))
    return change(0, array_of(item, "a sample"))


def _check(lengths: object, axis: object, pad: object) -> None:
    sizes = list(lengths.values()) if isinstance(lengths, Mapping) else []
    if len(sizes) < 2 or not all(_is_whole(n) and n > 0 for n in sizes):
        raise DataError(
            "lengths is a dict of two or more lengths by signature key, such as "
            f"{{'10s': 1000, '30s': 3000}}. Received: {lengths!r:.80}"
        )
    if not all(map(_is_whole, axis.values() if isinstance(axis, Mapping) else [axis])):
        raise DataError(f"axis is a whole number, or a dict of them. Received: {axis!r:.80}")
    values = pad.values() if isinstance(pad, Mapping) else [pad]
    if not all(isinstance(v, Real) and np.isfinite(float(v)) for v in values):
        raise DataError(f"pad is a number, or a dict of them by input. Received: {pad!r:.80}")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
