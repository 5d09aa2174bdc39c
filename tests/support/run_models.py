"""Runs models in another Python, that of an older run time or of another machine."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.flatbuffer import parse

Array = npt.NDArray[Any]
Arrays = list[Array]
Models = Mapping[str, tuple[bytes, Sequence[Array]]]
"""Files with a sample each, arrays in input order, by name."""

Results = dict[str, dict[str, Arrays | str]]
"""Outputs by model and resolver, or what the interpreter said to it."""

PROGRAM = Path(__file__).parent / "external" / "run_models.py"
RUN_TIMEOUT_S = 600


def run_models(
    python: Sequence[object],
    folder: Path,
    models: Models,
    resolvers: Sequence[str] = ("AUTO",),
    environment: Mapping[str, str] | None = None,
    timeout_s: float = RUN_TIMEOUT_S,
) -> Results:
    """What an interpreter makes of each model with each op resolver.

    Args:
        python: Command that starts the other Python.
        folder: For files.
        models: What is run.
        resolvers: Names of op resolvers: `"AUTO"` is XNNPACK, `"BUILTIN_REF"` reference kernels.
        environment: Variables that it gets besides.
        timeout_s: Most seconds that all of it may take.

    Returns:
        Outputs by model and resolver, or what the interpreter said to it.

    Raises:
        RuntimeError: The other Python died, or was not done in time.
    """
    paths = {name: folder / f"{number}.tflite" for number, name in enumerate(models)}
    for name, (tflite, sample) in models.items():
        paths[name].write_bytes(tflite)
        inputs = parse(tflite).graphs[0].inputs
        named: Any = {f"input_{i}": a for i, a in zip(inputs, sample, strict=True)}
        np.savez(f"{paths[name]}.npz", **named)
    command = [*python, PROGRAM, ",".join(resolvers), *paths.values()]
    try:
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, timeout=timeout_s,
            check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done in {timeout_s:g} s") from None
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    texts = iter([json.loads(line) for line in done.stdout.splitlines()])
    return {
        name: {
            resolver: next(texts) or list(np.load(f"{path}.{resolver}.npz").values())
            for resolver in resolvers
        }
        for name, path in paths.items()
    }
