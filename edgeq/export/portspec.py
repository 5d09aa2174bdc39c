"""`PortSpec`: what the user asks of an input or output. Plain values; knows no model.

What `inputs=` and `outputs=` take is one of

    "uint8"                            the type, for every float32 port
    (0, 1)                             the range that is known beforehand, for every float32 port
    ("uint8", (0, 1))                  both
    {"image": "uint8", "gain": (0, 1)} one of these by the port's name; the others stay as they are
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from edgeq.argument_types import PortRange, PortType
from edgeq.errors import RecipeError

DTYPES: tuple[str, ...] = get_args(PortType)


@dataclass(frozen=True)
class PortSpec:
    """Request for one input or output.

    Attributes:
        dtype: `"float32"`, `"int8"`, `"uint8"` or `"int16"`: what the app passes or gets.
        range: `(lowest, highest)` real value, known beforehand; None measures it.
    """

    dtype: str = "float32"
    range: PortRange | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise RecipeError(
                f"an input or output can be {', '.join(DTYPES)}. Received: {self.dtype!r}"
            )
        if self.range is not None and not _is_range(self.range):
            raise RecipeError(
                "the range of an input or output is two finite numbers, low < high. "
                f"Received: {self.range!r}"
            )


@dataclass(frozen=True)
class PortSpecs:
    """Requests for the inputs, or the outputs, of a model.

    Attributes:
        side: `"inputs"` or `"outputs"`, as errors name it.
        every: What every float32 port shall be that `named` does not name.
        named: What single ports shall be, by their name in the signature.
    """

    side: str
    every: PortSpec = PortSpec()
    named: Mapping[str, PortSpec] = field(default_factory=dict)

    def resolve(self, dtypes: Mapping[str, str]) -> dict[str, PortSpec]:
        """Resolves the requests for each float32 port.

        Args:
            dtypes: The float model's type of each port, by name.

        Raises:
            RecipeError: A name that is not there, or a port that holds no real numbers.
        """
        real = [name for name, dtype in dtypes.items() if dtype == "float32"]
        for name in self.named:
            if name not in dtypes:
                raise RecipeError(
                    f"{self.side}: the model has no {self.side[:-1]} {name!r}; "
                    f"it has {', '.join(dtypes)}"
                )
            if name not in real:
                raise RecipeError(
                    f"{self.side}: {name!r} is {dtypes[name]} in the model itself, and stays so; "
                    "only float32 ones get another type or a range"
                )
        if self.every != PortSpec() and not real:
            raise RecipeError(
                f"{self.side}: the model has no float32 {self.side[:-1]}, so that there is "
                "nothing to give another type or a range"
            )
        return {name: self.named.get(name, self.every) for name in real}


def as_port_specs(value: object, side: str) -> PortSpecs:
    """Reads what `inputs=` and `outputs=` take; see the module's docstring.

    Raises:
        RecipeError: Something else.
    """
    if isinstance(value, Mapping):
        return PortSpecs(side, named={str(name): _spec(v, side) for name, v in value.items()})
    return PortSpecs(side, _spec(value, side))


def _spec(value: Any, side: str) -> PortSpec:
    if isinstance(value, PortSpec):
        return value
    if isinstance(value, str):
        return PortSpec(value)
    if isinstance(value, tuple | list) and len(value) == 2:
        first, second = value
        if isinstance(first, str) and isinstance(second, tuple | list):
            return PortSpec(first, tuple(second))
        if not isinstance(first, str) and not isinstance(second, str):
            return PortSpec(range=(first, second))
    raise RecipeError(
        f"{side} takes a type such as 'uint8', a range such as (0, 1), both as "
        f"('uint8', (0, 1)), or a dict of these by name. Received: {value!r}"
    )


def _is_range(pair: tuple[Any, ...]) -> bool:
    return (
        len(pair) == 2
        and all(isinstance(n, numbers.Real) and math.isfinite(n) for n in pair)
        and pair[0] < pair[1]
    )
