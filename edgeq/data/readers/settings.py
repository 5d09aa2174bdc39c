"""Options of the data as they stand in files and on the command line."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgeq.data.readers.file_data import reading
from edgeq.errors import DataError, DependencyError
from edgeq.foreign.documents import parse_json, parse_yaml, read_text, shortened

LARGEST_SIZE = 100_000_000
"""Of an image's side or a recording's length in samples."""


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a `.json`, `.yaml` or `.yml` file.

    Raises:
        DataError: The file is not readable or holds no mapping.
        DependencyError: It is YAML and PyYAML is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise DataError(f"a data config is a .json, .yaml or .yml file. Received: {str(path)!r}")
    parse = parse_json
    if suffix != ".json":
        _check_yaml(path)
        parse = parse_yaml
    with reading(path, "the data config"):
        made = parse(read_text(path))
    if not isinstance(made, dict) or not all(isinstance(name, str) for name in made):
        raise DataError(f"the data config {path} must map options to values, such as size: 224x224")
    return made


def _check_yaml(path: Path) -> None:
    """Raises a `DependencyError` where PyYAML is missing."""
    try:
        importlib.import_module("yaml")
    except ImportError:
        raise DependencyError(
            f"reading {path} needs PyYAML: pip install pyyaml; or write it as .json"
        ) from None


def parse_setting(text: str) -> tuple[str, str]:
    """Name and value of `"size=224x224"`.

    Raises:
        DataError: It has no `=`.
    """
    name, sign, value = text.partition("=")
    if not sign:
        raise DataError(f"an option of the data is KEY=VALUE, such as size=224x224: {text!r}")
    return name.strip(), value.strip()


def check_names(settings: Mapping[str, Any], allowed: list[str]) -> None:
    """Raises a `DataError` for a setting that there is not."""
    unknown = [name for name in settings if name not in allowed]
    if unknown:
        raise DataError(f"{unknown[0]!r} is no option of the data; there are {', '.join(allowed)}")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises a `DataError` for a value that is none of the allowed."""
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
        raise DataError(f"{name} must be a number. Received: {shortened(value)}") from None


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    return tuple(_number(name, part) for part in parts)


def whole_number(name: str, value: Any) -> int:
    """A positive whole number, also of text."""
    number = _number(name, value)
    if not 1 <= number <= LARGEST_SIZE or not number.is_integer():
        raise DataError(
            f"{name} must be a positive whole number up to {LARGEST_SIZE:,}. "
            f"Received: {shortened(value)}"
        )
    return int(number)


def _size(name: str, value: Any) -> tuple[int, int]:
    """`"224x160"` and `[224, 160]` are height and width, `224` is both."""
    parts = value.lower().split("x") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    if len(parts) not in (1, 2):
        raise DataError(f"{name} must be HEIGHTxWIDTH, such as 224x224. Received: {value!r}")
    return whole_number(name, parts[0]), whole_number(name, parts[-1])


def _text(name: str, value: Any) -> Any:
    """Passed on as it is; `ImageLayout` says which values there are."""
    return value


PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "size": _size, "crop": _text, "resize": whole_number, "mean": _numbers, "std": _numbers,
    "scale": _number, "layout": _text, "color": _text, "length": whole_number,
}  # fmt: skip
