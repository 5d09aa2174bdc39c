"""`WeightScheme`: how a weight becomes integers, and the checks of what rules and recipes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from edgeq.errors import RecipeError
from edgeq.foreign.documents import shortened
from edgeq.recipe.mode import WEIGHT_ONLY, Mode

BLOCK_SIZES = (0, 32, 64, 128, 256)
ROUNDINGS = ("gptq", "gptq_once", "reconstruct", "nearest")


@dataclass(frozen=True, kw_only=True)
class WeightScheme:
    """How a weight becomes integers.

    Attributes:
        per_channel: Whether weights get a scale for each channel, or one for all.
        symmetric: Whether the zero point of weights is 0; False lets each scale of a weight mode
            have the zero point that loses least.
        block_size: 32, 64, 128 or 256 gives so many neighbours in a row of a dynamic int4
            FULLY_CONNECTED weight a scale of their own; 0 is one scale for the row.
        rounding: `"gptq"` rounds weights so that what they compute on the representative data
            stays, and moves biases by what is left on average, in static int8 and with fewer than
            8 bits a second time by what the integers before them give; `"gptq_once"` does that
            once; `"reconstruct"` does it twice and then moves integers by what up to three
            layers in a row put out together, which takes a minute or two; `"nearest"` rounds
            each number for itself.
    """

    per_channel: bool = True
    symmetric: bool = True
    block_size: int = 0
    rounding: str = "gptq"

    @property
    def weights(self) -> WeightScheme:
        """The scheme alone, of a rule or recipe that says more."""
        return WeightScheme(**{f.name: getattr(self, f.name) for f in fields(WeightScheme)})


DEFAULT_SCHEME = WeightScheme()


def check_text(owner: WeightScheme, *names: str) -> None:
    """Raises a `RecipeError` unless the fields of these names are text."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, str):
            raise RecipeError(
                f"{type(owner).__name__}.{name} must be text. Received: {shortened(value)}"
            )


def check_mode(owner: WeightScheme, name: str) -> None:
    """Raises a `RecipeError` unless the field is a `Mode`."""
    value = getattr(owner, name)
    if not isinstance(value, Mode):
        raise RecipeError(
            f"{type(owner).__name__}.{name} must be a Mode, for example Mode.FLOAT. "
            f"Received: {shortened(value)}"
        )


def check_flags(owner: WeightScheme, *names: str) -> None:
    """Raises a `RecipeError` unless the fields of these names are true or false."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, bool):
            raise RecipeError(
                f"{type(owner).__name__}.{name} must be true or false. Received: {shortened(value)}"
            )


def check_scheme(owner: WeightScheme, mode: Mode) -> None:
    """Raises a `RecipeError` for weights that become no integers in this way in this mode."""
    check_flags(owner, "per_channel", "symmetric")
    check_choice(owner, "block_size", BLOCK_SIZES)
    check_choice(owner, "rounding", ROUNDINGS)
    if not owner.symmetric and not mode.is_weight_only:
        raise RecipeError(
            f"{type(owner).__name__}.symmetric=False is for the modes "
            f"{', '.join(m.value for m in WEIGHT_ONLY)}, whose weights become float before any op "
            "but a lookup in a table computes with them: kernels that compute with integer weights "
            f"take the zero point 0 alone. Received: mode {mode.value!r}"
        )


def check_choice(owner: WeightScheme, name: str, choices: Sequence[object]) -> None:
    """Raises a `RecipeError` unless the field is one of some values."""
    value = getattr(owner, name)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise RecipeError(
            f"{type(owner).__name__}.{name} must be one of {tuple(choices)}. "
            f"Received: {shortened(value)}"
        )
