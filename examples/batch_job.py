#!/usr/bin/env python3
"""Runs a model over a large .npy file on all CPUs and writes its output as another.

Inputs and outputs are real numbers, and stay in files: memory does not grow with their number. The
output appears under its name when it is whole.

Example:
    python batch_job.py model.tflite inputs.npy outputs.npy
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgeq.runtime import SessionPool

ROWS = 64
"""Rows that a thread takes at a time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("inputs", type=Path, help=".npy, (N, ...) as the model takes them")
    parser.add_argument("outputs", type=Path, help=".npy to write")
    parser.add_argument("--sessions", type=int, help="by default one for each CPU")
    asked = parser.parse_args()
    inputs = np.load(asked.inputs, mmap_mode="r")
    partial = asked.outputs.with_name(f"{asked.outputs.name}.partial")
    start = time.perf_counter()
    with SessionPool(asked.model, sessions=asked.sessions) as pool:
        with pool.session() as session:
            port = session.io.outputs[0]
        shape = (len(inputs), *port.shape[1:])
        outputs = np.lib.format.open_memmap(partial, "w+", np.float32, shape)

        def work(first: int) -> None:
            rows = slice(first, first + ROWS)
            outputs[rows] = pool.run(np.asarray(inputs[rows]), real=True)[port.name]

        with ThreadPoolExecutor(len(pool)) as threads:
            list(threads.map(work, range(0, len(inputs), ROWS)))
    outputs.flush()
    partial.replace(asked.outputs)
    spent = time.perf_counter() - start
    print(f"{len(inputs)} rows in {spent:.1f} s, {len(inputs) / spent:.0f} a second")


if __name__ == "__main__":
    main()
