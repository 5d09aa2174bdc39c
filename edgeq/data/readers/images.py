"""Image files; Pillow is imported when the first is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.data.readers.file_data import Array, FileData, optional_package, reading
from edgeq.data.readers.image_layout import ImageLayout, sides
from edgeq.errors import DataError

_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr",
                    "LAB", "HSV"}  # fmt: skip


class ImageFiles(FileData):
    """Image files, each a sample.

    Args:
        files: The files.
        layout: What is made of them.

    Attributes:
        layout: The same.
    """

    def __init__(self, files: Sequence[Path], layout: ImageLayout) -> None:
        optional_package("PIL.Image", "images", "Pillow")
        self.layout = layout
        self._files = files
        self._first: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def _read(self, index: int) -> Array:
        path = self._files[index]
        with self._image(path) as image:
            self._check_mode(path, image)
            self._check_size(path, (image.height, image.width))
            with reading(path):
                pixels = self._pixels(image)
        return self.layout.normalised(pixels.reshape(*pixels.shape[:2], self.layout.channels))

    @contextlib.contextmanager
    def _image(self, path: Path) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            with reading(path):
                pillow = optional_package("PIL.Image", "images", "Pillow")
                image = stack.enter_context(pillow.open(path))
            yield image

    def _check_mode(self, path: Path, image: Any) -> None:
        if image.mode not in _EIGHT_BIT_MODES:
            raise DataError(
                f"{path} has more than 8 bits a channel (mode {image.mode}); store it with 8, or "
                "the arrays as .npy"
            )

    def _check_size(self, path: Path, size: tuple[int, int]) -> None:
        if self.layout.size is not None:
            return
        if self._first is None:
            with self._image(self._files[0]) as image:
                self._first = (image.height, image.width)
        if size != self._first:
            raise DataError(
                f"the images differ in size: {self._files[0].name} is {sides(self._first)}, {path} "
                f"is {sides(size)} (height x width); give a size"
            )

    def _pixels(self, image: Any) -> Array:
        pillow = optional_package("PIL.Image", "images", "Pillow")
        image = image.convert("RGB" if self.layout.color == "rgb" else "L")
        height, width = self.layout.resized(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), pillow.Resampling.BILINEAR)
        wanted = self.layout.size or (height, width)
        top, left = round((height - wanted[0]) / 2), round((width - wanted[1]) / 2)
        return np.asarray(image)[top : top + wanted[0], left : left + wanted[1]]
