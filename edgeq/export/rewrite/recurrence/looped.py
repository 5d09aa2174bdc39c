"""An LSTM as a loop: a delegate computes its body, and each row of a weight has a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.importing.loop_layer import LEAST_STEPS, LayerLoop
from edgeq.export.importing.loop_steps import LSTM, Array, RecurrentLayer
from edgeq.export.importing.op_chain import OpChain
from edgeq.export.rewrite.base import Rewrite, Site
from edgeq.export.rewrite.recurrence.lstm_operands import NOTHING, LstmOperands
from edgeq.flatbuffer import Operator
from edgeq.model import layer
from edgeq.targets import Purpose
from edgeq.versions import per_channel_runtime

LEAST_WEIGHTS = 1 << 14
"""Fewer numbers of a step's weights take longer in a loop than in the op, by measurement: 1.8 times
as long in a layer of 16, the same in one of 64, and a third in one of 256."""

MOST_LOSS_DB = 6.0
"""What the op may lose by its one scale for a gate, against a scale for each row, to be left so."""


def _looped(site: Site, op: Operator) -> Sequence[Any] | None:
    """An LSTM of some steps whose states begin each run as zeros or as some tensor."""
    found = LstmOperands.of(site, op)
    if found is None or found.steps < LEAST_STEPS or not _is_worth_it(found):
        return None
    name = layer(site.graph, op)
    chain = OpChain(site.editor, name, [t.shape for t in site.graph.tensors])
    states = [
        _zeros(chain, found.batch, width) if start == NOTHING else start
        for start, width in zip(found.states, (found.state_width, found.width), strict=True)
    ]
    loop = LayerLoop(
        site.editor, chain, name, site.subgraphs, _numbers(found), (found.steps, found.batch),
        bool(found.copies),
    )  # fmt: skip
    rows, cell = loop.outputs(found.source, states, found.time_major)
    made = loop.written(rows, op.outputs[0], found.time_major)
    return [*made, *found.gone(site, cell)]


def _is_worth_it(found: LstmOperands) -> bool:
    """Whether a loop is faster than the op, or keeps weights that the op would lose."""
    if found.recurrence.size >= LEAST_WEIGHTS:
        return True
    return max(_loss_db(found.weight), _loss_db(found.recurrence)) > MOST_LOSS_DB


def _loss_db(rows: Array) -> float:
    """Noise of integers with one scale for each of four gates, over those with one for each row."""
    largest = np.square(np.abs(rows).max(1).reshape(4, -1).astype(np.float64))
    by_row, by_gate = largest.mean(), largest.max(1).mean()
    return float(10 * np.log10(by_gate / by_row)) if by_row else 0.0


def _zeros(chain: OpChain, batch: int, width: int) -> int:
    return chain.constant(np.zeros((batch, width), np.float32))


def _numbers(found: LstmOperands) -> RecurrentLayer:
    """The numbers of a layer, those for its new state behind those of its gates."""
    bias = _reordered(found.bias)
    return RecurrentLayer(
        LSTM, _reordered(found.weight), _reordered(found.recurrence), bias, np.zeros_like(bias),
        found.projection, found.cell_clip, found.state_clip,
    )  # fmt: skip


def _reordered(rows: Array) -> Array:
    let_in, kept, new, out = np.split(rows, 4)
    return np.concatenate([let_in, kept, out, new])


def _said(count: int) -> str:
    layers = f"{count} LSTM layers are loops" if count > 1 else "an LSTM layer is a loop"
    return (
        f"{layers}: the delegate computes the steps, with a scale for each row of a weight where "
        "the runtime's own op has one for a gate"
    )


REWRITES = (
    Rewrite(
        "looped LSTM", ("UNIDIRECTIONAL_SEQUENCE_LSTM",),
        "a loop over its steps, the inputs of all of them multiplied at once",
        "the delegate computes the body, with a scale for each row of a weight", False, _looped,
        Purpose.DELEGATION_ALONE, per_channel_runtime("WHILE", False), _said,
    ),
)  # fmt: skip
