"""`Result`: what a public function found out, to be read by people and by programs."""

from __future__ import annotations

import io
import json
import math
from abc import ABC, abstractmethod
from typing import Any

from rich.console import Console

TEXT_WIDTH = 100
"""Characters in a line of what is not written to a terminal."""


class Result(ABC):
    """What a public function found out. `print(result)` and a notebook show its text."""

    @abstractmethod
    def _write(self, console: Console) -> None:
        """Writes it to a console."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values that JSON has."""

    def print(self, console: Console | None = None) -> None:
        """Writes it to a terminal, by default standard output."""
        self._write(console or Console())

    def text(self) -> str:
        """It as plain text."""
        buffer = io.StringIO()
        self._write(Console(file=buffer, width=TEXT_WIDTH, color_system=None))
        return buffer.getvalue()

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        return self.text().rstrip("\n")

    def _ipython_display_(self) -> None:
        """What notebooks call to show it.

        Source:
            IPython's documentation, "Integrating your objects with IPython".
        """
        self.print()


def strict(value: Any) -> Any:
    """Plain values as JSON has them: what is not a finite number is None."""
    if isinstance(value, dict):
        return {name: strict(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(strict, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
