"""What an op UNIDIRECTIONAL_SEQUENCE_LSTM computes with, as far as other ops can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Site
from edgeq.flatbuffer import Operator, schema

NOTHING = -1
"""In the place of a state of zeros."""

_GATES = slice(1, 5), slice(5, 9), slice(12, 16)
"""Operand slots of what the four gates multiply with and add: input, forget, new state, output."""

_PROJECTION, _STATE, _CELL = 16, 18, 19
"""Operand slots of what outputs are multiplied with, and of the two states."""

_OTHERS = (9, 10, 11, 17, 20, 21, 22, 23)
"""Operand slots that other ops do not stand for: peepholes, and layer normalization."""


@dataclass(frozen=True)
class LstmOperands:
    """A layer whose states begin each run as zeros or as some tensor.

    Attributes:
        source: What it reads, `(T, B, I)`, or `(B, T, I)` where time is not first.
        weight: What inputs are multiplied with, `(4 * H, I)`.
        recurrence: What states are multiplied with, `(4 * H, P)`.
        bias: What is added, `(4 * H,)`.
        projection: What outputs are multiplied with, `(P, H)`; None without one.
        states: The state and the cell state that it begins with, or `NOTHING`.
        copies: Ops that copy the cell state behind the last step.
        steps: Number of steps, `T`.
        batch: Rows of a step, `B`.
        time_major: Whether time is first.
        cell_clip: Largest magnitude of a cell state; 0 without a limit.
        state_clip: Likewise of an output that is projected.
    """

    source: int
    weight: Array
    recurrence: Array
    bias: Array
    projection: Array | None
    states: tuple[int, int]
    copies: tuple[Operator, ...]
    steps: int
    batch: int
    time_major: bool
    cell_clip: float
    state_clip: float

    @classmethod
    def of(cls, site: Site, op: Operator) -> LstmOperands | None:
        """The operands of an op; None where it keeps its states, or has what others lack."""
        options = op.options
        is_other = any(slot < len(op.inputs) and op.inputs[slot] >= 0 for slot in _OTHERS)
        squashes = options.fusedActivationFunction == schema.ActivationFunctionType.TANH
        starts = [_start(site, op.inputs[slot]) for slot in (_STATE, _CELL)]
        weight, recurrence, bias = (_joined(site, op, slots) for slots in _GATES)
        projection = op.inputs[_PROJECTION]
        computed = projection >= 0 and site.value(projection) is None
        is_diagonal = getattr(options, "diagonalRecurrentTensors", False)
        if is_other or not squashes or None in starts or computed or is_diagonal:
            return None
        if weight is None or recurrence is None or bias is None:
            return None
        shape = site.shape(op.outputs[0])
        time = 0 if options.timeMajor else 1
        state, cell = (NOTHING if start is None else start for start in starts)
        return cls(
            _behind_copies(site, op.inputs[0]), weight, recurrence, bias,
            site.value(projection), (state, cell),
            tuple(_cell_copies(site, op)), shape[time], shape[1 - time], bool(options.timeMajor),
            float(options.cellClip), float(options.projClip),
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Numbers of a gate, `H`."""
        return len(self.bias) // 4

    @property
    def state_width(self) -> int:
        """Numbers of a state, `P`."""
        return int(self.recurrence.shape[1])

    def gone(self, site: Site, cell: int) -> Iterator[Any]:
        """Ops in the place of the copies of the cell state, which go."""
        for copied in self.copies:
            site.gone.add(copied.index)
            made = copied.outputs[0]
            yield site.reshape(copied, cell, made, site.shape(made))


def _start(site: Site, state: int) -> int | None:
    """The tensor that a state begins each run as, `NOTHING` for zeros; None if it lasts."""
    writer = site.producer(state, "FILL", "SELECT_V2")
    if writer is None:
        return None
    if writer.name == "SELECT_V2":
        return writer.inputs[1]
    value = site.value(writer.inputs[1])
    return None if value is None or value.any() else NOTHING


def _joined(site: Site, op: Operator, slots: slice) -> Array | None:
    parts = [site.value(t) for t in op.inputs[slots]]
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _behind_copies(site: Site, source: int) -> int:
    """What a tensor is a copy of, which says nothing but what comes first."""
    ordered = site.producer(source, "SELECT_V2")
    is_copy = ordered is not None and ordered.inputs[1] == ordered.inputs[2]
    return ordered.inputs[1] if ordered is not None and is_copy else source


def _cell_copies(site: Site, op: Operator) -> Sequence[Operator]:
    """Copies of the cell state that are made behind an LSTM."""
    readers = {reader.index: reader for reader, _ in site.graph.uses[op.inputs[_CELL]]}
    return [reader for reader in readers.values() if reader.name == "SELECT_V2"]
