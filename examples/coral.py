#!/usr/bin/env python3
"""Classifies images on an Edge TPU, or on the CPU where there is none.

A file of `edgeq compile` runs on the Edge TPU alone; the file that it was compiled from runs on the
CPU.

Example:
    python coral.py model_edgetpu.tflite --cpu model.tflite --images images.npy
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from edgeq.errors import DelegateError
from edgeq.runtime import Session, edgetpu_devices


def load(compiled: Path, plain: Path, device: str, performance: str) -> Session:
    """The model on the Edge TPU, or on the CPU with a word on why."""
    try:
        for found in edgetpu_devices():
            print(f"Edge TPU {found.device} at {found.path}")
        options = {"device": device, "Performance": performance} if device else {}
        return Session(compiled, "edgetpu", options=options)
    except DelegateError as error:
        print(f"on the CPU: {error}")
        return Session(plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="what edgeq compile wrote")
    parser.add_argument("--cpu", type=Path, required=True, help="what it was compiled from")
    parser.add_argument("--images", type=Path, required=True, help=".npy of real numbers, (N, ...)")
    parser.add_argument("--device", default="", help="such as usb:0, pci:0 or :1")
    parser.add_argument("--performance", default="Max", help="Low, Medium, High or Max")
    asked = parser.parse_args()
    images = np.load(asked.images, mmap_mode="r")
    with load(asked.model, asked.cpu, asked.device, asked.performance) as session:
        print(session.describe())
        start = time.perf_counter()
        (scores,) = session.run(images, real=True).values()
        spent_ms = (time.perf_counter() - start) * 1000 / len(images)
    print(f"classes: {' '.join(map(str, scores.argmax(axis=1)))}")
    print(f"{spent_ms:.2f} ms an image")


if __name__ == "__main__":
    main()
