"""`Thresholds`: what an integer model has to keep, from Python or from a project's settings.

Plain values and the reading of TOML; knows nothing of models.
"""

from __future__ import annotations

import difflib
import math
import numbers
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgeq.errors import RecipeError
from edgeq.foreign.documents import DocumentError, parse_toml, read_text, shortened

if sys.version_info >= (3, 11):
    pass
else:
    pass

SETTINGS = ("edgeq.toml", "pyproject.toml")
"""Files of the working directory that may hold thresholds, in the order of trying."""


@dataclass(frozen=True)
class Tolerances:
    """How much worse than a baseline a model may be.

    Attributes:
        max_sqnr_loss_db: Decibels of SQNR that it may lose.
        max_metric_drop: How far each metric may drop.
        max_size_growth: Share by which it may be larger, for example 0.02.
        max_latency_growth: Share by which its latency over the float model's may grow; None leaves
            it out, as two machines seldom agree.
    """

    max_sqnr_loss_db: float = 1.0
    max_metric_drop: float = 0.005
    max_size_growth: float = 0.02
    max_latency_growth: float | None = None

    def __post_init__(self) -> None:
        _check_numbers(self, "baseline.")


@dataclass(frozen=True)
class Thresholds:
    """Promises that an integer model has to keep; None and False ask for nothing.

    Attributes:
        min_sqnr_db: Lowest SQNR of any output in dB.
        max_metric_drop: How far each metric may drop below the float model's, in its own unit.
        min_agreement: Lowest share of score vectors with the same highest entry.
        max_size_kb: Largest size of the file in kB of 1,000 bytes.
        max_latency_ratio: Largest latency over the float model's, measured in turn on one thread.
        full_delegation: Whether every op must run in the XNNPACK delegate.
        zero_float_ops: Whether no op may compute in float, but those that convert inputs and
            outputs.
        baseline: How much worse than the baseline it may be, if there is one.

    Raises:
        RecipeError: A value of a wrong kind.
    """

    min_sqnr_db: float | None = None
    max_metric_drop: float | None = None
    min_agreement: float | None = None
    max_size_kb: float | None = None
    max_latency_ratio: float | None = None
    full_delegation: bool = False
    zero_float_ops: bool = False
    baseline: Tolerances = field(default_factory=Tolerances)

    def __post_init__(self) -> None:
        _check_numbers(self, "")
        for name in ("full_delegation", "zero_float_ops"):
            if not isinstance(getattr(self, name), bool):
                raise RecipeError(f"{name} is true or false. Received: {getattr(self, name)!r}")

    @property
    def asks_for_nothing(self) -> bool:
        """Whether every model would pass."""
        return replace(self, baseline=Tolerances()) == Thresholds()

    @classmethod
    def of_mapping(cls, settings: Mapping[str, Any]) -> Thresholds:
        """Thresholds by name, as TOML has them.

        Raises:
            RecipeError: A name or value that makes no sense.
        """
        if not isinstance(settings, Mapping):
            raise RecipeError(f"thresholds are a table. Received: {shortened(settings)}")
        values = dict(settings)
        if "baseline" in values:
            if not isinstance(values["baseline"], Mapping):
                raise RecipeError(f"baseline is a table. Received: {values['baseline']!r}")
            values["baseline"] = _made(Tolerances, values["baseline"])
        made: Thresholds = _made(cls, values)
        return made

    @classmethod
    def read(cls, path: Path | None = None) -> Thresholds:
        """Thresholds of a project.

        Args:
            path: A .toml file, whose `[tool.edgeq]` counts if its name is pyproject.toml, and which
                counts as a whole otherwise. None takes edgeq.toml or else pyproject.toml of the
                working directory, and asks for nothing where there is neither.

        Raises:
            RecipeError: A file that cannot be read, or a setting that makes no sense.
        """
        if path is None:
            found = [Path(name) for name in SETTINGS if Path(name).exists()]
            return cls.read(found[0]) if found else cls()
        try:
            content = parse_toml(read_text(path))
        except (OSError, DocumentError) as error:
            raise RecipeError(f"cannot read the settings {path}: {error}") from None
        if path.name == "pyproject.toml":
            tools = content.get("tool", {})
            content = tools.get("edgeq", {}) if isinstance(tools, Mapping) else {}
            if not isinstance(content, Mapping):
                raise RecipeError(f"{path}: [tool.edgeq] is a table. Received: {content!r:.80}")
        try:
            return cls.of_mapping(content)
        except RecipeError as error:
            raise RecipeError(f"{path}: {error}") from None


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.3)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise RecipeError(f"no threshold is called {name!r}; {hint}")
    return kind(**values)


def _check_numbers(owner: Any, prefix: str) -> None:
    for entry in fields(owner):
        value = getattr(owner, entry.name)
        if value is None or isinstance(entry.default, bool) or isinstance(value, Tolerances):
            continue
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
            raise RecipeError(f"{prefix}{entry.name} is a number. Received: {value!r}")
