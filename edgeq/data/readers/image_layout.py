"""`ImageLayout`: how an image becomes an array.

Knows pixels, nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from edgeq.data.readers.file_data import Array
from edgeq.data.readers.settings import PARSERS, check_choice, check_names
from edgeq.errors import DataError

Crop = Literal["center", "none"]
Layout = Literal["nchw", "nhwc"]
Color = Literal["rgb", "gray"]


@dataclass(frozen=True)
class ImageLayout:
    """How an image becomes an array: `(pixel * scale - mean) / std`, in 8-bit pixels.

    Attributes:
        size: `(height, width)` of the result; `None` takes the images as they are, all of one size.
        crop: `"center"` resizes until the image just covers `size` and cuts its centre out;
            `"none"` resizes to `size`, whatever that does to the proportions.
        mean: One number, or one for each channel.
        std: One number, or one for each channel.
        scale: What a pixel of 0 to 255 is multiplied with.
        layout: `"nchw"` makes `(1, channels, height, width)`, `"nhwc"` `(1, height, width,
            channels)`.
        color: `"rgb"` makes three channels, `"gray"` one.
        resize: With a centre crop, the shorter side after resizing, for example 256 before a crop
            of 224; `None` is what just covers `size`.

    Raises:
        DataError: A value that makes no sense.
    """

    size: tuple[int, int] | None = None
    crop: Crop = "center"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    layout: Layout = "nchw"
    color: Color = "rgb"
    resize: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("crop", Crop), ("layout", Layout), ("color", Color)):
            check_choice(name, getattr(self, name), get_args(allowed))
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise DataError(
                    f"{name} has {len(getattr(self, name))} numbers; give one, or one for each of "
                    f"the {self.channels} channels of {self.color} images"
                )
        if not all(map(math.isfinite, (*self.mean, *self.std, self.scale))):
            raise DataError("mean, std and scale must be finite numbers")
        if 0 in (*self.std, self.scale):
            raise DataError("std and scale must not be 0")
        self._check_size()

    def _check_size(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise DataError(f"size must be (height, width) in pixels. Received: {self.size}")
        if self.resize is None:
            return
        if self.size is None or self.crop == "none":
            raise DataError("resize goes with a size and the centre crop; give both or drop it")
        if self.resize < max(self.size):
            raise DataError(f"resize is {self.resize}; the crop of {sides(self.size)} needs more")

    @property
    def channels(self) -> int:
        """3 for `"rgb"`, 1 for `"gray"`."""
        return 3 if self.color == "rgb" else 1

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any]) -> ImageLayout:
        """A layout of values as they stand in files and options, such as `"224x224"`.

        Raises:
            DataError: A name that is none of the layout's, or a value that cannot be read.
        """
        check_names(settings, [name for name in PARSERS if name != "length"])
        return cls(**{name: PARSERS[name](name, value) for name, value in settings.items()})

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of an image before the crop; lengths are those of torchvision."""
        if self.size is None:
            return height, width
        if self.crop == "none":
            return self.size
        if self.resize is not None:
            short, long = min(height, width), max(height, width)
            longer = int(self.resize * long / short)
            return (self.resize, longer) if height <= width else (longer, self.resize)
        if self.size[0] * width >= self.size[1] * height:
            return self.size[0], int(self.size[0] * width / height)
        return int(self.size[1] * height / width), self.size[1]

    def normalised(self, pixels: Array) -> Array:
        """The sample of `pixels`, `(height, width, channels)` uint8."""
        scale, mean, std = (np.asarray(a, np.float32) for a in (self.scale, self.mean, self.std))
        values: Array = (pixels.astype(np.float32) * scale - mean) / std
        if self.layout == "nchw":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[None])


def sides(size: tuple[int, int]) -> str:
    """A size as settings give it, such as `"224x160"`."""
    return f"{size[0]}x{size[1]}"


def image_settings(shape: tuple[int, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Size, layout and color that an input of `shape` asks for; nothing if it is no image."""
    if len(shape) != 4:
        return {}
    places: dict[str, tuple[int, tuple[int, ...]]] = {
        "nchw": (shape[1], shape[2:]), "nhwc": (shape[3], shape[1:3]),
    }  # fmt: skip
    for layout, (channels, size) in places.items():
        if channels in (1, 3) and min(size) > 0 and given.get("layout", layout) == layout:
            return {"size": size, "layout": layout, "color": "rgb" if channels == 3 else "gray"}
    return {}
