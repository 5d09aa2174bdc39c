"""Sizes that a model leaves open, as a sample has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgeq.data.as_numpy import to_numpy
from edgeq.data.input_spec import InputSpec
from edgeq.data.rep_dataset import select
from edgeq.errors import DataError

Shape = tuple[int, ...]

OPEN = -1
"""A size that may be any."""


def sizes_in(sample: Any, inputs: Sequence[InputSpec]) -> dict[str, Shape]:
    """Shape of each input by name, its open sizes those of the sample.

    Args:
        sample: An array, a tuple or list of them in the order of the inputs, or a dict by name; the
            first dimension may be missing.
        inputs: What the model takes, `OPEN` where any size will do.

    Raises:
        DataError: The sample has another number of arrays, or arrays of another rank.
    """
    if not any(OPEN in spec.shape for spec in inputs):
        return {spec.name: spec.shape for spec in inputs}
    values = select(sample, tuple(inputs), 0)
    return {spec.name: _filled(spec, value) for spec, value in zip(inputs, values, strict=True)}


def _filled(spec: InputSpec, value: Any) -> Shape:
    if OPEN not in spec.shape:
        return spec.shape
    given = to_numpy(value).shape
    if len(given) == len(spec.shape) - 1:
        given = (1, *given)
    if len(given) != len(spec.shape):
        raise DataError(
            f"sample 0, input {spec.name!r}: the model takes shape {spec.shape}, where "
            f"{OPEN} is any size. Received: {given}"
        )
    return tuple(g if size == OPEN else size for size, g in zip(spec.shape, given, strict=True))


def fixed_notes(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> Iterator[str]:
    """A sentence for each open size, and what it is in the file."""
    for name, shape in before.items():
        for axis, size in enumerate(shape):
            if size == OPEN:
                yield (
                    f"input {name!r} may have any size along dimension {axis}; in the file it is "
                    f"{after[name][axis]}, as in the sample"
                )
