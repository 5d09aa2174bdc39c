"""Finds the recurrent layer that a scan is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgeq.export.frontends.jaxpr.scans.loop_scans import SequenceLoop, find_loop
from edgeq.export.frontends.jaxpr.scans.lstm_scans import SequenceLstm, find_lstm

RecurrentLayer = SequenceLstm | SequenceLoop


def find_layer(eqn: Any, constants: Sequence[Any]) -> RecurrentLayer | None:
    """The layer that a scan over `(T, B, I)` computes; None where it does something else.

    Args:
        eqn: The scan.
        constants: What each step reads beside states and inputs.
    """
    return find_lstm(eqn, constants) or find_loop(eqn, constants)
