"""`.wav` files; soundfile is imported when the first is read."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeq.data.readers.file_data import Array, FileData, optional_package, reading
from edgeq.errors import DataError


class SoundFiles(FileData):
    """Mono `.wav` files, each a sample `(1, length)` float32; integers become [-1, 1].

    Args:
        files: The files.
        length: What each is cut or zero-padded to; `None` if all have one length.
    """

    def __init__(self, files: Sequence[Path], length: int | None) -> None:
        optional_package("soundfile", ".wav files", "soundfile")
        if length is not None and length < 1:
            raise DataError(f"length must be a positive whole number. Received: {length}")
        self._files = files
        self._length = length
        self._first: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def _read(self, index: int) -> Array:
        path = self._files[index]
        self._check_header(path)
        with reading(path):
            soundfile = optional_package("soundfile", ".wav files", "soundfile")
            frames = -1 if self._length is None else self._length
            values: Array = soundfile.read(path, frames=frames, dtype="float32")[0]
        missing = 0 if self._length is None else self._length - len(values)
        return np.pad(values, (0, missing))[None]

    def _header(self, path: Path) -> Any:
        with reading(path):
            _check_whole(path)
            return optional_package("soundfile", ".wav files", "soundfile").info(path)

    def _check_header(self, path: Path) -> None:
        found = self._header(path)
        if found.channels != 1:
            raise DataError(f"{path} has {found.channels} channels; mix it down to one")
        if not found.frames:
            raise DataError(f"{path} holds no sound")
        if self._first is None:
            first = self._header(self._files[0])
            self._first = (first.samplerate, first.frames)
        rate, frames = self._first
        if found.samplerate != rate:
            raise DataError(
                f"{path} has {found.samplerate} Hz, {self._files[0].name} has {rate} Hz; bring all "
                "files to the rate that the model was trained with"
            )
        if self._length is None and found.frames != frames:
            raise DataError(
                f"{path} has {found.frames} samples, {self._files[0].name} has {frames}; give a "
                "length to cut or pad to"
            )


def _check_whole(path: Path) -> None:
    """Raises `ValueError` for a cut `.wav` file, of which libsndfile would read what is there."""
    with path.open("rb") as file:
        start = file.read(8)
        found = file.seek(0, os.SEEK_END)
    if len(start) == 8 and start.startswith(b"RIFF"):
        wanted = struct.unpack("<4xI", start)[0] + 8
        # Programs that write into a pipe do not know the size and say about 2 or 4 GiB.
        if found < wanted < 0x7FFF0000:
            raise ValueError(f"it ends after {found} of {wanted} bytes")


def sound_length(shape: tuple[int, ...]) -> int | None:
    """The length that an input of `shape` asks for; None if it is no sound."""
    return shape[1] if len(shape) == 2 and shape[1] > 0 else None
