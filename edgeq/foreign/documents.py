"""JSON, YAML and TOML of unknown origin, read within bounds.

A short text can stand for a huge value, or be nested so deeply that reading it takes the stack.
Knows nothing of what documents say.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SMALL_BYTES = 1 << 20
"""More than any recipe, settings or baseline that somebody wrote."""

LARGE_BYTES = 1 << 28
"""More than a calibration with histograms of thousands of tensors."""

DEPTH_MAX = 50
DIGITS_MAX = 400
"""Of an integer; a float64 has no more in front of its point."""


class DocumentError(ValueError):
    """A document that cannot be read; the text says why, and where if that is known."""


def read_text(path: str | os.PathLike[str], most_bytes: int = SMALL_BYTES) -> str:
    """The text of a file.

    Raises:
        OSError: It cannot be read.
        DocumentError: It is no text, or longer than any such file.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise DocumentError(f"it has more than {most_bytes:,} bytes")
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"it is not UTF-8 text: {error}") from None
    except ValueError as error:  # a path with a zero byte
        raise DocumentError(str(error)) from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        DocumentError: It is not JSON, or out of bounds.
    """
    return _bounded(lambda: json.loads(text, parse_int=_integer), "JSON")


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        DocumentError: It is not TOML, or out of bounds.
    """
    made: dict[str, Any] = _bounded(lambda: tomllib.loads(text), "TOML")
    return made


def parse_yaml(text: str) -> Any:
    """The value of a YAML text without aliases, of which a few lines can make billions of values.

    Raises:
        DocumentError: It is not YAML, out of bounds, or has aliases.
        ImportError: PyYAML is not installed.
    """
    yaml = importlib.import_module("yaml")

    def parse() -> Any:
        depth = 0  # PyYAML takes time that grows with the square of it
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:
                raise RecursionError
            if isinstance(event, yaml.AliasEvent):
                line = event.start_mark.line + 1
                raise DocumentError(f"line {line} has the alias *{event.anchor[:40]}: write it out")
        return yaml.safe_load(text)

    return _bounded(parse, "YAML", yaml.YAMLError)


def _bounded(parse: Callable[[], Any], form: str, *errors: Any) -> Any:
    try:
        made = parse()
    except DocumentError:
        raise
    except RecursionError:
        raise DocumentError(f"it is nested more than {DEPTH_MAX} levels deep") from None
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError, *errors) as error:
        reason = " ".join(str(error).split())[:300]
        raise DocumentError(f"it is not {form}: {reason}") from None
    _check_depth(made)
    return made


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise DocumentError(f"it has an integer of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_MAX):
        inside = [list(v.values()) if isinstance(v, dict) else v for v in level]
        level = [part for v in inside if isinstance(v, list | tuple) for part in v]
        if not level:
            return
    raise DocumentError(f"it is nested more than {DEPTH_MAX} levels deep")


def shortened(value: object, most: int = 80) -> str:
    """How an error shows what it has received."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer with too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}..."
