"""Files become representative data: indexable, cut into parts by slices, one file read at a time.

Knows file formats, nothing of models. What reads images and sound is imported when it is needed.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import math
import operator
import os
import struct
import zipfile
from abc import ABC, abstractmethod
from array import array as packed
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from edgeq.data.input_spec import InputSpec
from edgeq.data.mapped import Mapped
from edgeq.errors import DataError, DependencyError, EdgeqError

Array = npt.NDArray[Any]
Item = Array | dict[str, Array]
Crop = Literal["center", "none"]
Layout = Literal["nchw", "nhwc"]
Color = Literal["rgb", "gray"]

KINDS = {
    ".png": "images", ".jpg": "images", ".jpeg": "images", ".bmp": "images", ".webp": "images",
    ".wav": ".wav files", ".npy": ".npy files",
}  # fmt: skip
"""What a folder may hold, by suffix."""

_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr",
                    "LAB", "HSV"}  # fmt: skip


class FileData(ABC):
    """Samples in files; `RepDataset` takes it as it is.

    `data[3]` reads one sample, `data[10:20]` or `data[1::4]` is the same kind of data with fewer
    samples and reads nothing. It can be pickled, so that other processes read their own part.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def _read(self, index: int) -> Item:
        """Reads one sample; `index` is in `range(len(self))`."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> FileData: ...
    def __getitem__(self, index: int | slice) -> Item | FileData:
        if isinstance(index, slice):
            return _Part(self, range(len(self))[index])
        return self._read(range(len(self))[operator.index(index)])

    def __iter__(self) -> Iterator[Item]:
        return (self._read(index) for index in range(len(self)))


class _Part(FileData):
    """Some samples of other data."""

    def __init__(self, whole: FileData, indices: range) -> None:
        self._whole = whole
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def _read(self, index: int) -> Item:
        return self._whole[self._indices[index]]


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
            _check_choice(name, getattr(self, name), get_args(allowed))
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
            raise DataError(f"resize is {self.resize}; the crop of {_by(self.size)} needs more")

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
        _check_names(settings, [name for name in _PARSERS if name != "length"])
        return cls(**{name: _PARSERS[name](name, value) for name, value in settings.items()})

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """What an image is resized to before the crop; lengths are those of torchvision."""
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
            layout = ImageLayout.of_settings({**_image_settings(shape, given), **given})
        return ImageFiles(files, layout)
    if kind == ".wav files":
        return SoundFiles(files, _sound_length(shape) if length is None else length)
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
    _check_names(settings, list(_PARSERS))
    layout = {name: value for name, value in settings.items() if name != "length"}
    length = _whole("length", settings["length"]) if "length" in settings else None
    return open_data(path, layout or None, length, inputs)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a `.json`, `.yaml` or `.yml` file.

    Raises:
        DataError: The file is not readable or holds no mapping.
        DependencyError: It is YAML and PyYAML is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise DataError(f"a data config is a .json, .yaml or .yml file. Received: {str(path)!r}")
    try:
        parse = json.loads if suffix == ".json" else importlib.import_module("yaml").safe_load
    except ImportError:
        raise DependencyError(
            f"reading {path} needs PyYAML: pip install pyyaml; or write it as .json"
        ) from None
    with _reading(path, "the data config"):
        made = parse(path.read_text(encoding="utf-8"))
    if not isinstance(made, dict) or not all(isinstance(name, str) for name in made):
        raise DataError(f"the data config {path} must map options to values, such as size: 224x224")
    return made


def parse_setting(text: str) -> tuple[str, str]:
    """Name and value of `"size=224x224"`.

    Raises:
        DataError: It has no `=`.
    """
    name, sign, value = text.partition("=")
    if not sign:
        raise DataError(f"an option of the data is KEY=VALUE, such as size=224x224: {text!r}")
    return name.strip(), value.strip()


class ArrayRows(FileData):
    """The rows of arrays in a `.npy` or `.npz` file, each with a batch dimension of 1.

    Args:
        path: The file.
        columns: The arrays by input name, the same number of rows in each.
        named: Whether samples are dicts by input name.
    """

    def __init__(self, path: Path, columns: Mapping[str, Mapped | Array], named: bool) -> None:
        if not columns:
            raise DataError(f"{path} holds no arrays")
        for name, column in columns.items():
            if not column.shape:
                which = f"{name!r} in {path}" if named else str(path)
                raise DataError(f"{which} is a single number; give an array (N, ...)")
        counts = {name: column.shape[0] for name, column in columns.items()}
        if len(set(counts.values())) != 1:
            raise DataError(f"the arrays in {path} differ in length: {counts}")
        self._columns = columns
        self._named = named
        self._count = next(iter(counts.values()))

    @classmethod
    def of_npy(cls, path: Path) -> ArrayRows:
        """Opens a `.npy` file `(N, ...)`."""
        with _reading(path):
            mapped = np.lib.format.open_memmap(path, mode="r")
        return cls(path, {"": Mapped.of(mapped) or mapped}, named=False)

    @classmethod
    def of_npz(cls, path: Path) -> ArrayRows:
        """Opens a `.npz` file; what is stored compressed in it is unpacked whole."""
        with _reading(path), zipfile.ZipFile(path) as archive:
            columns = {
                entry.filename.removesuffix(".npy"): _member(path, archive, entry)
                for entry in archive.infolist()
            }
        return cls(path, columns, named=True)

    def __len__(self) -> int:
        return self._count

    def _read(self, index: int) -> Item:
        rows = {name: column[index : index + 1] for name, column in self._columns.items()}
        return rows if self._named else next(iter(rows.values()))


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Mapped | Array:
    """An array of a zip file; left where it is if it is stored there as it is."""
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"{entry.filename!r} in it is not an array")
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            # The last two fields of the zip format's local header, whose length is 30 bytes.
            skipped = sum(struct.unpack("<26x2H", file.read(30)))
            file.seek(skipped, os.SEEK_CUR)
            mapped = _mapped_at(path, file)
        if mapped is not None:
            return mapped
    with archive.open(entry) as unpacked:
        return np.asarray(np.lib.format.read_array(unpacked, allow_pickle=False))


def _mapped_at(path: Path, file: IO[bytes]) -> Mapped | None:
    """The array that starts where `file` stands, or `None` if it cannot be mapped."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    reader = readers.get(np.lib.format.read_magic(file))
    if reader is None:
        return None
    shape, fortran, dtype = reader(file)
    if dtype.hasobject or 0 in shape or not shape:
        return None
    return Mapped(path, file.tell(), dtype, shape, "F" if fortran else "C")


class TableRows(FileData):
    """The rows of a `.csv` file of numbers, each `(1, columns)` float32.

    A first line without any number in it is a header. Empty lines are skipped.

    Args:
        path: The file, UTF-8 and separated by commas.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = packed("Q")
        with _reading(path), path.open("rb") as file:
            start = 0
            for line in file:
                if line.strip(_BLANK):
                    self._starts.append(start)
                start += len(line)
        if self._starts and not any(map(_is_number, self._cells(0))):
            self._starts.pop(0)
        if not self._starts:
            raise DataError(f"{path} holds no rows of numbers")
        self._width = len(self._cells(0))

    def __len__(self) -> int:
        return len(self._starts)

    def _cells(self, index: int) -> list[str]:
        with _reading(self._path), self._path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline().decode("utf-8-sig").strip()
            return next(csv.reader([line], strict=True))

    def _read(self, index: int) -> Array:
        cells = self._cells(index)
        if len(cells) != self._width:
            raise DataError(
                f"{self._where(index)} has {len(cells)} columns, the first row {self._width}"
            )
        for column, cell in enumerate(cells):
            if not _is_number(cell):
                raise DataError(
                    f"{self._where(index)}, column {column + 1}: {cell!r} is not a number"
                )
        with np.errstate(over="ignore"):  # what overflows is refused as infinite
            return np.asarray([[float(cell) for cell in cells]], np.float64).astype(np.float32)

    def _where(self, index: int) -> str:
        with _reading(self._path), self._path.open("rb") as file:
            number = file.read(self._starts[index]).count(b"\n") + 1
        return f"{self._path}, line {number}"


class ArrayFiles(FileData):
    """A folder of `.npy` files, each a sample or a batch of them.

    Args:
        files: The files.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._first: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._files)

    def _load(self, path: Path) -> Array:
        with _reading(path), path.open("rb") as file:
            return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    def _read(self, index: int) -> Array:
        path = self._files[index]
        array = self._load(path)
        if self._first is None:
            self._first = array.shape if index == 0 else self._load(self._files[0]).shape
        # The first dimension may be a batch, and the last batch a smaller one.
        if len(array.shape) != len(self._first) or array.shape[1:] != self._first[1:]:
            raise DataError(
                f"{path} has shape {array.shape}, {self._files[0].name} has {self._first}; "
                "the arrays of a folder may differ in their first dimension alone"
            )
        return array


class ImageFiles(FileData):
    """Image files, each a sample.

    Args:
        files: The files.
        layout: What is made of them.

    Attributes:
        layout: The same.
    """

    def __init__(self, files: Sequence[Path], layout: ImageLayout) -> None:
        _package("PIL.Image", "images", "Pillow")
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
            with _reading(path):
                pixels = self._pixels(image)
        return self.layout.normalised(pixels.reshape(*pixels.shape[:2], self.layout.channels))

    @contextlib.contextmanager
    def _image(self, path: Path) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            with _reading(path):
                pillow = _package("PIL.Image", "images", "Pillow")
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
                f"the images differ in size: {self._files[0].name} is {_by(self._first)}, {path} "
                f"is {_by(size)} (height x width); give a size"
            )

    def _pixels(self, image: Any) -> Array:
        pillow = _package("PIL.Image", "images", "Pillow")
        image = image.convert("RGB" if self.layout.color == "rgb" else "L")
        height, width = self.layout.resized(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), pillow.Resampling.BILINEAR)
        wanted = self.layout.size or (height, width)
        top, left = round((height - wanted[0]) / 2), round((width - wanted[1]) / 2)
        return np.asarray(image)[top : top + wanted[0], left : left + wanted[1]]


class SoundFiles(FileData):
    """Mono `.wav` files, each a sample `(1, length)` float32; integers become [-1, 1].

    Args:
        files: The files.
        length: What each is cut or zero-padded to; `None` if all have one length.
    """

    def __init__(self, files: Sequence[Path], length: int | None) -> None:
        _package("soundfile", ".wav files", "soundfile")
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
        with _reading(path):
            soundfile = _package("soundfile", ".wav files", "soundfile")
            frames = -1 if self._length is None else self._length
            values: Array = soundfile.read(path, frames=frames, dtype="float32")[0]
        missing = 0 if self._length is None else self._length - len(values)
        return np.pad(values, (0, missing))[None]

    def _header(self, path: Path) -> Any:
        with _reading(path):
            _check_whole(path)
            return _package("soundfile", ".wav files", "soundfile").info(path)

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


_BLANK = b" \t\r\n\xef\xbb\xbf"
"""What an empty line of a .csv file may have, a byte order mark included."""


@contextlib.contextmanager
def _reading(path: Path, what: str = "the data") -> Iterator[None]:
    """Any failure inside becomes a `DataError` that names the file."""
    try:
        yield
    except EdgeqError:
        raise
    except OSError as error:
        raise DataError(f"cannot read {what} {path}: {error.strerror or error}") from None
    except Exception as error:  # decoders of damaged files raise whatever they run into
        raise DataError(f"cannot read {what} {path}: {error or type(error).__name__}") from None


def _package(module: str, what: str, name: str) -> Any:
    """An optional module; `OSError` is what soundfile raises without its library."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError):
        raise DependencyError(f"reading {what} needs {name}: pip install 'edgeq[data]'") from None


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


def _folder(path: Path) -> tuple[str, list[Path]]:
    """What a folder and its subfolders hold, hidden ones aside, and the files in order."""
    found: dict[str, list[Path]] = {}
    with _reading(path):
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


_IMAGE_SUFFIXES = [suffix.removeprefix(".") for suffix, kind in KINDS.items() if kind == "images"]


def _raise(error: OSError) -> None:
    raise error


def _image_settings(shape: tuple[int, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """Size, layout and color that an input of `shape` asks for; nothing if it is no image."""
    if len(shape) != 4:
        return {}
    sides: dict[str, tuple[int, tuple[int, ...]]] = {
        "nchw": (shape[1], shape[2:]), "nhwc": (shape[3], shape[1:3]),
    }  # fmt: skip
    for layout, (channels, size) in sides.items():
        if channels in (1, 3) and min(size) > 0 and given.get("layout", layout) == layout:
            return {"size": size, "layout": layout, "color": "rgb" if channels == 3 else "gray"}
    return {}


def _sound_length(shape: tuple[int, ...]) -> int | None:
    return shape[1] if len(shape) == 2 and shape[1] > 0 else None


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_names(settings: Mapping[str, Any], allowed: list[str]) -> None:
    unknown = [name for name in settings if name not in allowed]
    if unknown:
        raise DataError(f"{unknown[0]!r} is no option of the data; there are {', '.join(allowed)}")


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{name} must be {' or '.join(allowed)}. Received: {value!r}")


def _number(name: str, value: Any) -> float:
    """A number, also of text such as `"1/255"`."""
    try:
        if isinstance(value, str) and "/" in value:
            above, below = value.split("/")
            return float(above) / float(below)
        return float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError):
        raise DataError(f"{name} must be a number. Received: {value!r}") from None


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    return tuple(_number(name, part) for part in parts)


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if number < 1 or not number.is_integer():
        raise DataError(f"{name} must be a positive whole number. Received: {value!r}")
    return int(number)


def _size(name: str, value: Any) -> tuple[int, int]:
    """`"224x160"` and `[224, 160]` are height and width, `224` is both."""
    parts = value.lower().split("x") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    if len(parts) not in (1, 2):
        raise DataError(f"{name} must be HEIGHTxWIDTH, such as 224x224. Received: {value!r}")
    return _whole(name, parts[0]), _whole(name, parts[-1])


def _text(name: str, value: Any) -> Any:
    """Passed on as it is; `ImageLayout` says which values there are."""
    return value


_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "size": _size, "crop": _text, "resize": _whole, "mean": _numbers, "std": _numbers,
    "scale": _number, "layout": _text, "color": _text, "length": _whole,
}  # fmt: skip
