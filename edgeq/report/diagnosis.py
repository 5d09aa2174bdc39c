"""The diagnosis of an integer model: what each layer loses, why, and what to do about it.

Plain values, with a text form for the terminal and JSON for programs. Knows nothing of how the
numbers were measured.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.errors import RecipeError
from edgeq.foreign.shown import escape, lines, visible
from edgeq.recipe import Recipe
from edgeq.terminal.printed import Result, strict

LAYERS_SHOWN = 12
"""Layers that the text lists; the JSON has them all."""

NAMED, MOST_SHARE = 3, 0.5
"""So many layers, or those that make so much of the noise, are named as what most of it is from."""

NEAR_DB = 1.0
"""A model that keeps so much less than rounding noise alone would leave is said to be short."""


@dataclass(frozen=True)
class Spread:
    """How the values of a layer's output lie in the range of its integers.

    Attributes:
        low: Lowest real number that the integers hold.
        high: Highest one.
        clipped: Share of the values that lie outside.
        used: Share of the range that the values reach, 0 included.
        usual: Share that 99.99 % of them reach.
        channel_ratio: Largest absolute value of the loudest channel over that of the median one.
        loudest_channel: Index of that channel along the last axis.
    """

    low: float
    high: float
    clipped: float
    used: float
    usual: float
    channel_ratio: float
    loudest_channel: int


@dataclass(frozen=True)
class LayerError:
    """One op of the integer model beside the float model's.

    Attributes:
        layer: Layer path.
        op: Builtin operator name; empty for an input of the model.
        index: Its position in the integer model; None for an input of the model.
        kind: What it computes in, for example `"int8"`.
        cost: Noise power over signal power at the model's outputs if only this layer's weight and
            result were rounded; what layers are ranked by.
        noise: The part of `cost` that is the rounding of its result.
        added_db: SQNR in dB of its result where it reads the float model's values, rounded to its
            inputs' integers.
        accumulated_db: SQNR in dB of its result in the integer model as it runs.
        spread: How its values lie in its integers' range; None where it writes real numbers.
        histogram: `(centre, count)` of the bins that hold its values in the float model.
        cause: Why it loses what it loses, in words; empty where it loses next to nothing.
        suggestion: What to do about it, likewise.
    """

    layer: str
    op: str
    index: int | None
    kind: str
    cost: float
    noise: float
    added_db: float
    accumulated_db: float
    spread: Spread | None
    histogram: tuple[tuple[float, int], ...]
    cause: str = ""
    suggestion: str = ""

    @property
    def where(self) -> str:
        """How texts name it."""
        return self.layer if self.index is None else f"{self.op} at {self.layer}"

    @property
    def cost_db(self) -> float:
        """SQNR in dB of the model's outputs if only this layer were rounded."""
        return -10 * math.log10(self.cost) if self.cost > 0 else math.inf


@dataclass(frozen=True)
class Diagnosis(Result):
    """Per-layer errors of an integer model, with causes and remedies.

    Attributes:
        layers: Every layer, the one that costs the outputs most first.
        sqnr_db: SQNR in dB of the worst output, or its worst part, of the whole model.
        samples: Number of samples that were run.
        runtime: The interpreter that ran them, with version.
        bound_db: SQNR in dB that independent rounding noise in all results alone would leave of the
            worst output or part; None where that cannot be told.
        sensitive: How many of the first layers are sensitive layers; 0 where none stands out.
        advice: What to do, in a sentence.
        recipe: A recipe that does it; None where there is nothing to do.
    """

    layers: tuple[LayerError, ...]
    sqnr_db: float
    samples: int
    runtime: str
    bound_db: float | None = None
    sensitive: int = 0
    advice: str = ""
    recipe: Recipe | None = None

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain values; what is not a finite number or has no JSON is None."""
        recipe = None
        with contextlib.suppress(RecipeError):  # an observer of the user's own has no name
            recipe = None if self.recipe is None else json.loads(self.recipe.to_json())
        layers = [{**asdict(line), "cost_db": line.cost_db} for line in self.layers]
        fields: dict[str, Any] = strict({**asdict(self), "layers": layers, "recipe": recipe})
        return fields

    def _write(self, console: Console) -> None:
        console.print(self._table())
        for line in self.layers[: self.sensitive]:
            console.print(f"\n{visible(line.where)}", style="bold", highlight=False, markup=False)
            console.print(lines(f"  why: {line.cause}"), highlight=False, markup=False)
            console.print(lines(f"  do: {line.suggestion}"), highlight=False, markup=False)
        if self.bound:
            console.print(lines(f"\n{self.bound}"), highlight=False, markup=False)
        console.print(lines(f"\n{self.advice}"), highlight=False, markup=False)

    @property
    def bound(self) -> str:
        """What rounding noise sets as a bound, who makes it, and what keeps the model away from it;
        empty where that cannot be told."""
        if self.bound_db is None:
            return ""
        by_results = {line.where: line.noise for line in self.layers}
        found = f"rounding noise alone would leave {self.bound_db:.1f} dB"
        found += "".join(f", most of it from {named}" for named in _most(by_results))
        short_db = self.bound_db - self.sqnr_db
        if short_db < NEAR_DB:
            return f"{found}; the model keeps {self.sqnr_db:.1f} dB"
        besides = {line.where: line.cost - line.noise for line in self.layers}
        found += f"; the model keeps {short_db:.1f} dB less"
        return found + "".join(
            f": most of weights' loss is from {named}" for named in _most(besides)
        )

    def _table(self) -> Table:
        table = Table(title="what each layer loses, the worst first", title_style="bold")
        table.add_column("layer", overflow="fold")
        for heading in ("alone", "adds", "so far", "clipped", "used", "channels"):
            table.add_column(heading, justify="right")
        for line in self.layers[:LAYERS_SHOWN]:
            spread = ("", "", "")
            if line.spread is not None:
                found = line.spread
                spread = f"{found.clipped:.2%}", f"{found.used:.0%}", f"{found.channel_ratio:.3g}x"
            table.add_row(
                escape(f"{line.where} ({line.kind})"), f"{line.cost_db:.1f} dB",
                f"{line.added_db:.1f} dB", f"{line.accumulated_db:.1f} dB", *spread,
            )  # fmt: skip
        table.caption = (
            f"SQNR of the outputs if it alone were rounded; of its own result fed with float "
            f"values, and in the whole model. {self.samples} samples; all together "
            f"{self.sqnr_db:.1f} dB, run by {self.runtime}"
        )
        return table


def _most(noise: Mapping[str, float]) -> list[str]:
    """The places that most of some noise is from, as one text with shares; none where all is 0."""
    total, named = sum(noise.values()), list[str]()
    share = 0.0
    for where, power in sorted(noise.items(), key=lambda pair: -pair[1]):
        if total <= 0 or power <= 0 or share >= MOST_SHARE or len(named) == NAMED:
            break
        share += power / total
        named.append(f"{where} ({power / total:.0%})")
    return [", ".join(named)] if named else []
