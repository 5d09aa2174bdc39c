"""The first run of a float model, in the child process: names the op that the runtime cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from edgeq.converter import TOO_LONG, check_runs
from edgeq.errors import ModelError
from edgeq.flatbuffer import Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.isolation import Worker
from edgeq.model import LiteModel

Inputs = Sequence[npt.NDArray[Any]]


def first_run(worker: Worker, model: LiteModel, sample: Inputs, what: str) -> None:
    """Loads and runs a float model once in the child.

    Args:
        worker: The child process.
        model: The float model.
        sample: Its inputs, in the graph's order.
        what: Name of the model in errors.

    Raises:
        ModelError: The runtime refuses the model, or dies on it; the message names the op.
    """
    try:
        check_runs(worker, model.tflite, sample, what)
    except ModelError as error:
        op = None if TOO_LONG in str(error) else _first_failing(worker, model, sample)
        if op is None:
            raise
        raise ModelError(
            f"{what} does not run in LiteRT itself, in float: it stops at {model.where(op)}. "
            f"Express that layer by other ops. {error}"
        ) from None


def _first_failing(worker: Worker, model: LiteModel, sample: Inputs) -> Operator | None:
    """The first op with which, behind all before it, a run fails; None where none does."""
    operators = model.graph.operators
    low, high = 0, len(operators)
    if not operators or _runs(worker, model, sample, high):
        return None
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if _runs(worker, model, sample, middle) else (low, middle)
    return operators[high - 1]


def _runs(worker: Worker, model: LiteModel, sample: Inputs, count: int) -> bool:
    """Whether the first ops of a model run."""
    editor = GraphEditor(model.tree)
    editor.keep_first(count)
    try:
        check_runs(worker, editor.finish(), sample, "")
    except ModelError:
        return False
    return True
