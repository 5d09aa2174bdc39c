"""What layers keep between calls, as inputs and outputs, on the backends that run eagerly.

A file keeps nothing between its runs. States begin with zeros, which stand for what the variables
hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.export.frontends.arguments import free_name

Values = dict[str, Any]


@dataclass(frozen=True)
class State:
    """A variable that layers keep something in.

    Attributes:
        variable: The variable.
        start: What it holds.
        taken: Name of the input that it becomes.
        given: Name of the output.
    """

    variable: Any
    start: npt.NDArray[Any]
    taken: str
    given: str


def states_of(
    run: Callable[[], Mapping[str, Any]], variables: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[State, ...]:
    """Variables that calls write and outputs of later calls depend on; none of infinite values.

    Args:
        run: Calls the model on a sample; returns its outputs by name.
        variables: What layers may write, by path.
        inputs: The model's inputs by name.
    """
    calls = _Calls(run, variables)
    start = {path: _array(variable.value) for path, variable in variables.items()}
    outputs, behind = calls(start)
    written = [path for path, value in behind.items() if not _same(value, start[path])]
    needed = [path for path in written if calls.depend_on(path, behind)]
    if not all(start[path].dtype.kind in "fi" and _is_finite(start[path]) for path in needed):
        return ()
    taken, given = set(inputs), set(outputs)
    names = {path: re.sub(r"\W", "_", path).strip("_") for path in needed}
    return tuple(
        State(
            variables[path], start[path], free_name(f"{names[path]}_in", taken),
            free_name(f"{names[path]}_out", given),
        )
        for path in needed
    )  # fmt: skip


def carrying(
    run: Callable[[Values], Mapping[str, Any]], states: tuple[State, ...]
) -> Callable[[Values], Values]:
    """A call that takes states among the inputs by name, and gives them behind the outputs."""
    import keras

    def call(named: Values) -> Values:
        own = {name: value for name, value in named.items() if name not in taken}
        mapping = [(s.variable, _shifted(named[s.taken], s.start, 1)) for s in states]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            made = dict(run(own))
        for state in states:
            value = scope.get_current_value(state.variable)
            made[state.given] = _shifted(value, state.start, -1)
        return made

    taken = {state.taken for state in states}
    return call


class _Calls:
    """Calls of a model on one sample with variables of other values."""

    def __init__(self, run: Callable[[], Mapping[str, Any]], variables: Mapping[str, Any]) -> None:
        self._run, self._variables = run, variables

    def __call__(self, values: Mapping[str, Any]) -> tuple[Values, Values]:
        """Outputs by name, and the variables' values behind the call by path."""
        import keras

        pairs = [(self._variables[p], keras.ops.convert_to_tensor(v)) for p, v in values.items()]
        with keras.StatelessScope(state_mapping=pairs) as scope:
            made = self._run()
        outputs = {name: _array(value) for name, value in made.items()}
        current = {p: scope.get_current_value(v) for p, v in self._variables.items()}
        return outputs, {path: _array(value) for path, value in current.items()}

    def depend_on(self, path: str, values: Mapping[str, Any]) -> bool:
        """Whether outputs of the next two calls depend on a variable."""
        rng = np.random.default_rng(0)
        value = values[path]
        noise = rng.standard_normal(value.shape) if value.dtype.kind == "f" else 1
        own, other = values, {**values, path: (value + noise).astype(value.dtype)}
        for _ in range(2):
            (expected, own), (found, other) = self(own), self(other)
            if not all(_same(found[name], output) for name, output in expected.items()):
                return True
        return False


def _array(value: Any) -> npt.NDArray[Any]:
    import keras

    return np.array(keras.ops.convert_to_numpy(value))


def _same(some: npt.NDArray[Any], others: npt.NDArray[Any]) -> bool:
    return some.shape == others.shape and bool(np.array_equal(some, others))


def _is_finite(array: npt.NDArray[Any]) -> bool:
    return bool(np.isfinite(array).all())


def _shifted(state: Any, start: npt.NDArray[Any], sign: int) -> Any:
    """A state as layers have it, by what its port has, and the other way with -1."""
    import keras

    return state + sign * keras.ops.convert_to_tensor(start) if start.any() else state
