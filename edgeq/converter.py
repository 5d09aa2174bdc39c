"""The converter's child process: starts it, asks it, and turns what goes wrong there into errors.

Knows the jobs that lower a traced model, and how a model is tried on the real interpreter. Knows
nothing of plans: `edgeq.export.convert` asks for integers.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from edgeq.errors import ConversionError, DependencyError, ModelError
from edgeq.files import Content
from edgeq.isolation import JobCrashed, JobFailed, Worker

PRELOAD = ("edgeq.mlir", "litert_converter.mlir.ir", "edgeq.runtime.session")
"""Modules that the child imports while the parent calibrates."""

TOO_LONG = "took longer than"
"""Stands in the error of a run that was stopped for the time that it took."""

RUN_SECONDS_MAX = 60.0
"""A model that takes longer for one sample is refused: verifying it would take hours."""

_DIAGNOSTIC = re.compile(r"error: (.*)")


def start_converter() -> Worker:
    """A child process that is importing the converter.

    Raises:
        DependencyError: The converter is not installed, as on a board.
    """
    if importlib.util.find_spec("litert_converter") is None:
        raise DependencyError(
            "exporting needs litert-converter, which exists for Linux x86-64 and macOS: export on "
            f"such a machine and copy the .tflite here. This one is {sys.platform}"
        )
    return Worker(PRELOAD)


def lower_to_float(worker: Worker, bytecode: bytes, origin: str) -> Content:
    """StableHLO bytecode of a traced model becomes a float .tflite file.

    Raises:
        ConversionError: The converter refused the model, or died on it.
    """
    job = "edgeq.mlir:lower"
    made: Content = ask(worker, "lowering the float model", job, bytecode, origin)
    return made


def lower_exported(
    worker: Worker, module: bytes, inputs: Sequence[str], outputs: Sequence[str]
) -> Content:
    """Converts a program that `jax.export` serialised to a float .tflite file with these names.

    Raises:
        ConversionError: The converter refused the model, or died on it.
    """
    job = "edgeq.mlir:lower_exported"
    made: Content = ask(worker, "lowering the float model", job, module, inputs, outputs)
    return made


def check_runs(
    worker: Worker, tflite: Content, sample: Sequence[npt.NDArray[Any]], what: str
) -> None:
    """Loads and runs a model once in the child.

    Raises:
        ModelError: The runtime refuses the model, or dies on it.
    """
    memory = (4 << 30) + 16 * len(tflite)
    job = "edgeq.runtime.session:outputs_of"
    try:
        worker.call(job, tflite, tuple(sample), timeout_s=RUN_SECONDS_MAX, memory_bytes=memory)
    except (JobCrashed, JobFailed) as error:
        raise ModelError(f"{what}: the runtime {error.reason} when it ran the model") from None


def ask(worker: Worker, what: str, job: str, *arguments: object) -> Any:
    """Runs one of the converter's jobs.

    Raises:
        ConversionError: The converter refused what it got, or died on it.
    """
    try:
        return worker.call(job, *arguments)
    except (JobCrashed, JobFailed) as error:
        raise ConversionError(
            f"{what}: the converter {error.reason.splitlines()[0]}. {diagnosis(error.output)}"
        ) from None


def diagnosis(output: str) -> str:
    """The first error that the converter printed, as a sentence; empty without one."""
    found = _DIAGNOSTIC.findall(output)
    return f"It said: {found[0][:300]}. " if found else ""
