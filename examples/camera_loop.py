#!/usr/bin/env python3
"""Names what a Raspberry Pi camera sees, or what is in a folder of images.

The model takes NHWC uint8 images, as `edgeq export ... --inputs uint8 --layout nhwc` makes them: a
frame is copied once, into the model's own memory.

Examples:
    python camera_loop.py model.tflite --labels labels.txt
    python camera_loop.py model.tflite --labels labels.txt --images photos
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeq.runtime import Session

Frame = npt.NDArray[np.uint8]


def images(folder: Path, size: tuple[int, int], channels: int) -> Iterator[tuple[str, Frame]]:
    """The images of a folder, resized to height and width."""
    from PIL import Image

    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            image = image.convert("RGB" if channels == 3 else "L").resize(size[::-1])
            yield path.name, np.asarray(image).reshape(*size, channels)


def camera(size: tuple[int, int], channels: int) -> Iterator[tuple[str, Frame]]:
    """Frames of the camera. One that comes while the model is busy takes the last one's place."""
    from picamera2 import Picamera2

    device = Picamera2()
    device.configure(
        device.create_video_configuration({"size": size[::-1], "format": "BGR888"})  # RGB in memory
    )
    device.start()
    newest: list[Frame] = []
    arrived = threading.Event()

    def watch() -> None:
        while True:
            newest[:] = [device.capture_array()]
            arrived.set()

    threading.Thread(target=watch, daemon=True).start()
    while True:
        arrived.wait()
        arrived.clear()
        frame = newest[0]
        gray = frame.mean(axis=2, keepdims=True).astype(np.uint8)
        yield time.strftime("%H:%M:%S"), frame if channels == 3 else gray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--labels", type=Path, required=True, help="one name a line")
    parser.add_argument("--images", type=Path, help="a folder to read instead of the camera")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    labels = asked.labels.read_text().splitlines()
    with Session(asked.model, threads=asked.threads) as session:
        (port,), (output,) = session.io.inputs, session.io.outputs
        _, height, width, channels = port.shape
        if port.dtype != "uint8":
            parser.error(f"the model takes {port.dtype}; export it with --inputs uint8")
        size = (height, width)
        frames = images(asked.images, size, channels) if asked.images else camera(size, channels)
        for name, frame in frames:
            start = time.perf_counter()
            session.input_view(port.name)[0] = frame
            session.invoke()
            scores = output.dequantize(session.outputs()[0])[0]
            best = int(scores.argmax())
            spent_ms = (time.perf_counter() - start) * 1000
            print(f"{name}\t{labels[best]}\t{scores[best]:.2f}\t{spent_ms:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
