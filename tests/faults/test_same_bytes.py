"""The same bytes, whatever Python's hash seed and the number of threads."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import EDGEQ, ENVIRONMENT
from mutations import bases


@pytest.mark.parametrize("recipe", ["int8", "auto"])
def test_hash_seeds_and_threads_leave_no_trace(recipe: str, tmp_path: Path) -> None:
    base = bases()[1]
    (tmp_path / "model.tflite").write_bytes(base.tflite)
    np.save(tmp_path / "data.npy", np.concatenate([sample for (sample,) in base.data]))
    for seed, threads in (("1", "1"), ("2", "4")):
        subprocess.run(
            [EDGEQ, "export", "model.tflite", "--data", "data.npy", "-o", f"{seed}.tflite",
             "--recipe", recipe, "--threads", threads],
            cwd=tmp_path, env={
                **os.environ, **ENVIRONMENT, "PYTHONHASHSEED": seed,
                "OMP_NUM_THREADS": seed, "OPENBLAS_NUM_THREADS": seed,
            },
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip
    assert (tmp_path / "1.tflite").read_bytes() == (tmp_path / "2.tflite").read_bytes()
