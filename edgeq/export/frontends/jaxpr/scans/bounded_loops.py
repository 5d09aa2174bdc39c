"""Loops that go on while a computed value says so, as far as constants bound them.

Knows how values are carried, and nothing of how an op is emitted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax.numpy as jnp

STEPS_MAX = 256
"""Steps after which a loop that a computed value may end is taken for one without a bound."""

Value = TypeVar("Value")


def unrolled(
    carry: Sequence[Value],
    goes_on: Callable[[Sequence[Value]], Value],
    step: Callable[[Sequence[Value]], Sequence[Value]],
    known: Callable[[Value], Any],
    emit: Callable[[Callable[..., Any], Sequence[Value]], Value],
) -> list[Value] | None:
    """What a loop carries at its end; None where no constant bounds its steps.

    A step behind the computed end changes nothing: what is carried is selected. What such a step
    makes of constants alone, as a counter, is what it would be without that end; so a condition
    that these make false is the end in any case.

    Args:
        carry: What it starts with.
        goes_on: Its condition of what is carried.
        step: Its body.
        known: The number that a value is as a constant; None of one that is computed.
        emit: Emits a function of arrays.
    """
    results, running, count = list(carry), None, 0
    view = list(carry)  # results, but what is made of constants alone
    while True:
        condition = goes_on(view)
        decided = known(condition)
        if decided is not None and not decided:
            return results
        if decided is None:
            count += 1
            running = condition if running is None else emit(jnp.logical_and, (running, condition))
        if count > STEPS_MAX or (decided is None and all(known(v) is None for v in view)):
            return None
        made = list(step(view))
        if running is None:
            results = view = made
            continue
        results = [
            emit(jnp.where, (running, new, old)) for new, old in zip(made, results, strict=True)
        ]
        view = [
            result if known(new) is None else new for new, result in zip(made, results, strict=True)
        ]
