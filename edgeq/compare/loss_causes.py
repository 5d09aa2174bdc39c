"""Why a layer of an integer model loses what it loses, and the rules that would fix it.

A pure decision from what was measured. Each cause is one function that says how many of the 8 bits
it takes; the one that takes most is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from edgeq.flatbuffer import Operator
from edgeq.model import LiteModel
from edgeq.ops import OPS, ScaleRule
from edgeq.qtypes import QParams
from edgeq.recipe import AUTO, Mode, Recipe, Rule
from edgeq.report.diagnosis import Diagnosis, LayerError, Spread

CLIPPED = 1e-3
"""From this share of clipped values on, clipping is what is wrong."""

BITS = 2.0
"""A cause that takes fewer bits than this is none."""

LEFT = 0.1
"""The layers that are blamed leave at most this share of the noise to all others."""

MOST_BLAMED = 1 / 4
"""If more than this share of the layers is needed for that, none stands out."""


@dataclass(frozen=True)
class Loss:
    """Loss of one layer.

    Attributes:
        line: What was measured of it.
        op: The float model's op; None for an input of the model.
        tensor: The float model's tensor that it writes.
        weight_cost: The part of its cost that is its weight's rounding.
        weight: Parameters of its weight, where that is rounded.
    """

    line: LayerError
    op: Operator | None
    tensor: int
    weight_cost: float
    weight: QParams | None

    @property
    def is_by_weight(self) -> bool:
        """Whether its weight loses more than its result."""
        return self.weight_cost > self.line.cost / 2


@dataclass(frozen=True)
class Cause:
    """Cause of a loss and its remedy.

    Attributes:
        bits: How many bits it takes.
        why: In words.
        remedy: In words.
        observer: Name of the observer that fixes it; empty where only other modes do.
    """

    bits: float
    why: str
    remedy: str
    observer: str = ""


def explain(
    found: Diagnosis, model: LiteModel, losses: Sequence[Loss], base: Recipe, goal_db: float
) -> Diagnosis:
    """Puts layers in order, and says why each loses what it loses and what to do.

    Args:
        found: What was measured.
        model: The float model.
        losses: What each layer loses.
        base: What the integer model was exported with.
        goal_db: SQNR in dB from which on nothing needs a change.
    """
    ranked = sorted(losses, key=lambda loss: -loss.line.cost)
    guilty = [] if found.sqnr_db >= goal_db else _blamed(ranked)
    if guilty:
        places = ", ".join(loss.line.where for loss in guilty)
        recipe: Recipe | None = _refined(model, ranked, guilty, base)
        advice = f"export again with the suggested recipe, which improves {places}"
    elif found.sqnr_db >= goal_db:
        recipe, advice = None, f"nothing to do: the outputs keep {found.sqnr_db:.1f} dB"
    elif base.default is Mode.AUTO:
        recipe = None
        advice = f"{_NONE_STANDS_OUT}: raise goal_db, or take a mode such as int16x8 or weight_int8"
    else:
        recipe = AUTO
        advice = f"{_NONE_STANDS_OUT}: let recipe='auto' find what should stay float"
    lines = tuple(_explained(loss) if loss.line.cost > 0 else loss.line for loss in ranked)
    return replace(found, layers=lines, sensitive=len(guilty), advice=advice, recipe=recipe)


_NONE_STANDS_OUT = "the loss is spread over many layers, none of which stands out"


def _blamed(ranked: Sequence[Loss]) -> list[Loss]:
    """The fewest layers that make up nearly all of the noise; none if those are many."""
    left = sum(loss.line.cost for loss in ranked)
    allowed, found = LEFT * left, list[Loss]()
    for loss in ranked:
        if left <= allowed:
            break
        found.append(loss)
        left -= loss.line.cost
    return found if len(found) <= max(1.0, MOST_BLAMED * len(ranked)) else []


def _explained(loss: Loss) -> LayerError:
    cause = _cause(loss)
    return replace(loss.line, cause=cause.why, suggestion=cause.remedy)


def _refined(
    model: LiteModel, losses: Sequence[Loss], guilty: Sequence[Loss], base: Recipe
) -> Recipe:
    """A recipe for the sensitive layers, in front of the base's rules."""
    noise = sum(loss.line.cost for loss in losses)
    storable = {
        loss.op.index
        for loss in losses
        if loss.op is not None and loss.weight is not None and loss.weight_cost <= LEFT * noise
    }
    rules: dict[str, Rule] = {}
    for loss in guilty:
        for rule in _rules(model, loss, storable):
            known = rules.get(rule.layer)
            if known is None or rule.mode is Mode.FLOAT:
                rules[rule.layer] = rule
    made = replace(base, name=f"{base.name}, refined", rules=(*rules.values(), *base.rules))
    used = {made.rule_for(op.name, model.layer(op)) for op in model.graph.operators}
    return replace(made, rules=tuple(rule for rule in made.rules if rule in used))


def _rules(model: LiteModel, loss: Loss, storable: Collection[int]) -> Iterator[Rule]:
    """Rules that fix one layer; `storable` are the ops whose weights may stay integers."""
    cause = _cause(loss)
    reason = f"{loss.line.where}: {cause.why}"
    if loss.op is not None and (loss.is_by_weight or cause.observer):
        mode = Mode.STATIC_INT8 if cause.observer or _is_per_tensor(loss) else Mode.FLOAT16
        layer = _layer_pattern(model, loss.op)
        yield Rule(layer=layer, mode=mode, reason=reason, observer=cause.observer or None)
        return
    for op in (*([] if loss.op is None else [loss.op]), *_readers(model, loss.tensor)):
        mode = Mode.WEIGHT_INT8 if op.index in storable else Mode.FLOAT
        yield Rule(layer=_layer_pattern(model, op), mode=mode, reason=reason)


def _layer_pattern(model: LiteModel, op: Operator) -> str:
    return f"^{re.escape(model.layer(op))}$"


def _readers(model: LiteModel, tensor: int) -> Iterator[Operator]:
    """Ops that would round a tensor if it were left float: those that only move it pass it on."""
    for op, _ in model.graph.uses.get(tensor, []):
        yield op
        row = OPS.get(op.name)
        if row is not None and row.rule is ScaleRule.SAME:
            for output in op.outputs:
                yield from _readers(model, output)


def _is_per_tensor(loss: Loss) -> bool:
    """Whether one scale serves a whole weight that could have one for each channel."""
    row = None if loss.op is None else OPS.get(loss.op.name)
    per_channel = row is not None and row.weight_axis is not None
    return per_channel and loss.weight is not None and loss.weight.axis is None


def _cause(loss: Loss) -> Cause:
    if loss.is_by_weight:
        return _ONE_SCALE if _is_per_tensor(loss) else _UNEVEN_WEIGHT
    spread = loss.line.spread
    found = [] if spread is None else [check(spread) for check in _CHECKS]
    worst = max(found, key=lambda cause: cause.bits, default=_TOO_COARSE)
    return worst if worst.bits >= BITS else _TOO_COARSE


_ONE_SCALE = Cause(
    BITS, "all channels of its weight share one scale, which only the loudest one needs",
    "give its weight a scale for each channel (per_channel=True)",
)  # fmt: skip

_UNEVEN_WEIGHT = Cause(
    BITS, "its weight loses most: integers that hold the largest entries of a channel are too "
    "coarse for the others",
    "store its weight as float16, and let it compute in float",
)  # fmt: skip

_TOO_COARSE = Cause(
    BITS, "its result needs finer steps than its integers have",
    "leave it and the ops that read it float, or let it compute in int16 (mode int16x8)",
)  # fmt: skip


def _clipping(spread: Spread) -> Cause:
    return Cause(
        math.inf if spread.clipped >= CLIPPED else 0.0,
        f"{spread.clipped:.2%} of its values lie outside {spread.low:.4g} to {spread.high:.4g}, "
        "the range of its integers, and are clipped",
        "calibrate with data that has such values, and with the observer minmax for this layer",
        "minmax",
    )


def _loud_channel(spread: Spread) -> Cause:
    ratio = spread.channel_ratio
    return Cause(
        math.log2(ratio) if ratio > 1 else 0.0,
        f"its channel {spread.loudest_channel} reaches {ratio:.4g} times as far as the median "
        f"channel, and all channels of a result share one scale: {256 / ratio:.2g} of 256 steps "
        "are left for the others",
        "leave it and the ops that read it float; or let the recipe scale channels "
        "(equalize=True), where constants around can take that up",
    )


def _rare_values(spread: Spread) -> Cause:
    share = max(spread.usual, 1e-6)
    return Cause(
        math.log2(max(spread.used, share) / share),
        f"99.99 % of its values fill {spread.usual:.2%} of the range of its integers; the rest of "
        "it is for a few that are far larger",
        "find its range with the observer mse (or percentile), which clips those",
        "mse",
    )


def _unused_range(spread: Spread) -> Cause:
    share = max(spread.used, 1e-6)
    return Cause(
        math.log2(1 / share),
        f"its values reach {spread.used:.2%} of the range of its integers: it shares a scale with "
        "larger ones, or calibration saw larger values",
        "leave it and the ops that read it float; or calibrate with data that is like this",
    )


_CHECKS: tuple[Callable[[Spread], Cause], ...] = (
    _clipping, _loud_channel, _rare_values, _unused_range,
)  # fmt: skip
