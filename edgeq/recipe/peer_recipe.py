"""Recipes of ai-edge-quantizer, read as rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeq.errors import RecipeError
from edgeq.recipe.layer_rule import Rule
from edgeq.recipe.mode import Mode


def peer_rules(content: list[Any]) -> tuple[Rule, ...]:
    """The rules of a recipe of ai-edge-quantizer, turned round: there the last match wins.

    Source:
        `recipe_manager.py` of ai-edge-quantizer 0.10: `regex`, `operation`, `algorithm_key` and
        `op_config` of each entry.
    """
    return tuple(_peer_rule(e) for e in reversed(content) if not _is_port(e))


def _is_port(entry: Any) -> bool:
    """Whether an entry speaks of the model's inputs or outputs, whose type `export` is told."""
    return isinstance(entry, Mapping) and entry.get("operation") in ("INPUT", "OUTPUT")


def _peer_rule(entry: Any) -> Rule:
    try:
        name = str(entry.get("operation", "*"))
        op = "*" if name in ("*", "ALL_SUPPORTED") else name
        layer = str(entry.get("regex", ""))
        return Rule(
            "" if layer == ".*" else layer,
            op,
            _peer_mode(entry),
            f"operation {name} of the recipe",
            per_channel=_peer_granularity(entry) != "TENSORWISE",
            symmetric=bool(_peer_weight(entry).get("symmetric", True)),
            block_size=int(_peer_granularity(entry).rpartition("BLOCKWISE_")[2])
            if "BLOCKWISE" in _peer_granularity(entry)
            else 0,
            strict=False,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"an entry of ai-edge-quantizer's recipe has 'regex', 'operation', 'algorithm_key' and "
            f"'op_config'; {entry!r:.80} does not: {error}"
        ) from None


def _peer_granularity(entry: Mapping[str, Any]) -> str:
    return str(_peer_weight(entry).get("granularity", "CHANNELWISE"))


def _peer_weight(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return (entry.get("op_config") or {}).get("weight_tensor_config") or {}


def _peer_mode(entry: Mapping[str, Any]) -> Mode:
    if entry["algorithm_key"] == "no_quantize":
        return Mode.FLOAT
    config = entry["op_config"]
    weight = _peer_weight(entry)
    if entry["algorithm_key"] == "float_casting":
        return Mode.FLOAT16
    bits, activation = weight.get("num_bits", 8), config.get("activation_tensor_config")
    if activation:
        mode = {8: Mode.STATIC_INT8, 16: Mode.INT16X8}.get(activation["num_bits"])
    elif config.get("compute_precision") == "INTEGER":
        mode = {8: Mode.DYNAMIC_INT8, 4: Mode.DYNAMIC_INT4}.get(bits)
    else:
        mode = {8: Mode.WEIGHT_INT8, 4: Mode.WEIGHT_INT4, 2: Mode.WEIGHT_INT2}.get(bits)
    if mode is None or (activation and bits != 8):
        raise RecipeError(
            f"no mode has {bits}-bit weights with "
            f"{activation['num_bits'] if activation else 'float'} activations; the modes are "
            f"{', '.join(m.value for m in Mode)}"
        )
    return mode
