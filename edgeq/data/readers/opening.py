"""Opens a file or folder as the kind of data that it holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeq.data.input_spec import InputSpec
from edgeq.data.readers.arrays import ArrayFiles, ArrayRows
from edgeq.data.readers.file_data import FileData, reading
from edgeq.data.readers.image_layout import ImageLayout, image_settings
from edgeq.data.readers.images import ImageFiles
from edgeq.data.readers.settings import PARSERS, check_names, whole_number
from edgeq.data.readers.sound import SoundFiles, sound_length
from edgeq.data.readers.tables import TableRows
from edgeq.errors import DataError

KINDS = {
    ".png": "images", ".jpg": "images", ".jpeg": "images", ".bmp": "images", ".webp": "images",
    ".wav": ".wav files", ".npy": ".npy files",
}  # fmt: skip
"""Kinds of files that a folder may hold, by suffix."""

_IMAGE_SUFFIXES = [suffix.removeprefix(".") for suffix, kind in KINDS.items() if kind == "images"]


def open_data(
    path: str | os.PathLike[str],
    layout: ImageLayout | Mapping[str, Any] | None = None,
    length: int | None = None,
    inputs: Sequence[InputSpec] = (),
) -> FileData:
    """Opens a file or folder of representative data; samples are read as they are asked for.

    Args:
        path: `.npy` `(N, ...)`; `.npz`, one such array for each input; `.csv`, a sample a row; or a
            folder, searched with its subfolders, of images, `.wav` or `.npy` files, a sample each.
        layout: How images become arrays. A mapping gives some of the values, as text or numbers;
            the others come from `inputs`.
        length: Samples that each `.wav` file is cut or zero-padded to.
        inputs: What the model takes; the one input of a model says size, layout and color of
            images and `length` of sound where they are not given.

    Returns:
        Data whose items are arrays with a batch dimension of 1, or dicts of them by input name for
        `.npz`. `.npy` files of a folder are passed on with the shape that they have.

    Raises:
        DataError: Nothing there, or nothing that can be read; a file that turns out unreadable
            raises it when its sample is asked for.
        DependencyError: The package that reads images or sound is missing.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"cannot read the data {path}: No such file or directory")
    kind, files = _folder(path) if path.is_dir() else (path.suffix.lower(), [path])
    if layout is not None and kind != "images":
        raise DataError(f"{path} holds no images, so image options do not apply to it")
    if length is not None and kind != ".wav files":
        raise DataError(f"{path} holds no .wav files, so a length does not apply to it")
    shape = inputs[0].shape if len(inputs) == 1 else ()
    if kind == "images":
        if not isinstance(layout, ImageLayout):
            given = layout or {}
            layout = ImageLayout.of_settings({**image_settings(shape, given), **given})
        return ImageFiles(files, layout)
    if kind == ".wav files":
        return SoundFiles(files, sound_length(shape) if length is None else length)
    if kind == ".npy files":
        return ArrayFiles(files)
    return _open_file(path, kind)


def _open_file(path: Path, suffix: str) -> FileData:
    openers: dict[str, Callable[[Path], FileData]] = {
        ".npy": ArrayRows.of_npy, ".npz": ArrayRows.of_npz, ".csv": TableRows,
    }  # fmt: skip
    if suffix not in openers:
        raise DataError(
            "data is a .npy, .npz or .csv file, a folder of images, .wav or .npy files, or a "
            f"function that yields samples. Received: {str(path)!r}"
        )
    return openers[suffix](path)


def open_with_settings(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    inputs: Sequence[InputSpec] = (),
) -> FileData:
    """`open_data` with the settings of `read_settings` and `parse_setting`.

    Raises:
        DataError: As `open_data`, or a setting of a name or value that makes no sense.
    """
    check_names(settings, list(PARSERS))
    layout = {name: value for name, value in settings.items() if name != "length"}
    length = whole_number("length", settings["length"]) if "length" in settings else None
    return open_data(path, layout or None, length, inputs)


def _folder(path: Path) -> tuple[str, list[Path]]:
    """Kind of files of a folder and its subfolders, hidden ones aside, and the files in order."""
    found: dict[str, list[Path]] = {}
    with reading(path):
        for folder, folders, names in os.walk(path, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                kind = KINDS.get(Path(name).suffix.lower())
                if kind is not None and not name.startswith("."):
                    found.setdefault(kind, []).append(Path(folder, name))
    if not found:
        raise DataError(
            f"the folder {path} holds no data: put images ({', '.join(_IMAGE_SUFFIXES)}), .wav or "
            ".npy files into it"
        )
    if len(found) > 1:
        raise DataError(
            f"the folder {path} holds {' and '.join(sorted(found))}; keep one kind in it"
        )
    kind, files = next(iter(found.items()))
    return kind, sorted(files)


def _raise(error: OSError) -> None:
    raise error
