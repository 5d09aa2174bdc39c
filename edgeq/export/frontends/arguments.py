"""How a sample becomes the arguments of the user's function, by the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeq.data.as_numpy import to_numpy
from edgeq.errors import DataError
from edgeq.flatbuffer import with_port_names
from edgeq.model import LiteModel

_NARROW = {"f": np.float32, "i": np.int32}
"""Types that the runtime takes, by kind."""


def bound(signature: inspect.Signature, sample: Any, name: str) -> dict[str, Any]:
    """The arrays of a sample by the parameter that each is for.

    Raises:
        DataError: They do not fit.
    """
    values: Mapping[str, Any]
    if isinstance(sample, tuple | list) and len(sample) == 1 and len(signature.parameters) > 1:
        inner = sample[0]  # a list or dict of all inputs, as models with several are called
        sample = inner if isinstance(inner, Mapping | tuple | list) else sample
    if isinstance(sample, Mapping):
        values = sample
        arguments: tuple[Any, ...] = ()
    else:
        values = {}
        arguments = tuple(sample) if isinstance(sample, tuple | list) else (sample,)
        arguments = without_labels(signature, arguments)
    try:
        found = signature.bind(*arguments, **values).arguments
    except TypeError as error:
        raise DataError(
            f"the sample does not fit {name}{signature}: {error}. Received: "
            f"{', '.join(map(str, values)) or f'{len(arguments)} arrays'}"
        ) from None
    named: dict[str, Any] = {}
    for parameter, value in found.items():
        kind = signature.parameters[parameter].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{parameter}_{i}": v for i, v in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[parameter] = value
    return {key: _input(value, key) for key, value in named.items()}


def call_style(signature: inspect.Signature, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of the named inputs are passed by position and which by name."""
    keyword = [
        name
        for name in names
        if name in signature.parameters
        and signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    ]
    variadic = any(
        p.kind is inspect.Parameter.VAR_POSITIONAL for p in signature.parameters.values()
    )
    if not variadic:
        keyword += [name for name in names if name not in signature.parameters]
    skipped = _after_gap(signature, names)
    keyword += [name for name in skipped if name not in keyword]
    return [name for name in names if name not in keyword], keyword


def _after_gap(signature: inspect.Signature, names: Sequence[str]) -> list[str]:
    """Inputs behind a parameter that keeps its default."""
    found, gap = [], False
    for name, parameter in signature.parameters.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            continue
        gap = gap or name not in names
        if gap and name in names:
            found.append(name)
    return found


def without_labels(signature: inspect.Signature, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Drops integer labels at the end of a sample that the function has no parameter for."""
    kinds = [p.kind for p in signature.parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return arguments
    room = sum(k is not inspect.Parameter.KEYWORD_ONLY for k in kinds)
    extra = [to_numpy(value) for value in arguments[room:]]
    labels = all(array.ndim <= 1 and array.dtype.kind in "iub" for array in extra)
    return arguments[:room] if labels else arguments


def left_over(signature: inspect.Signature, keywords: Mapping[str, Any]) -> str:
    """What to do about keys of a sample that a function has no parameter for, such as labels."""
    names = [repr(name) for name in keywords if name not in signature.parameters]
    return f". Leave {', '.join(names)} out of the samples" if names else ""


def as_one(
    signature: inspect.Signature, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Passes a dict of several inputs as the one parameter that a function has for all of them."""
    parameters = signature.parameters.values()
    needed = [p for p in parameters if p.default is inspect.Parameter.empty]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes_one = len(needed) == 1 and needed[0].kind in kinds
    if len(keywords) > 1 and takes_one and signature.parameters.keys().isdisjoint(keywords):
        return (keywords,), {}
    return arguments, keywords


def with_own_keys(model: LiteModel, sample: Any) -> LiteModel:
    """A model that takes a dict as one parameter, its inputs called by the keys alone."""
    names = [name for name, _ in model.input_tensors()]
    keys = sorted(map(str, sample), key=len) if isinstance(sample, Mapping) else []
    if not keys or not set(names).isdisjoint(keys):
        return model
    place = next((name for name in names if name.endswith(f"_{keys[-1]}")), "")
    before = place.removesuffix(keys[-1])
    if not before or set(names) != {f"{before}{key}" for key in keys}:
        return model
    outputs = {name: name for name, _ in model.output_tensors()}
    inputs = {name: name.removeprefix(before) for name in names}
    return replace(model, tflite=with_port_names(model.tflite, inputs, outputs))


Declared = Sequence[int | None] | None
"""A shape as a model declares it: None for a size that is left open, or for all of it."""


def fixed_sizes(declared: Mapping[str, Declared], arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """A note for each size that a model leaves open: the file has that of the sample."""
    notes = []
    for name, shape in declared.items():
        if name not in arguments or len(shape or arguments[name].shape) != arguments[name].ndim:
            continue
        for axis, size in enumerate(arguments[name].shape):
            if shape is None or shape[axis] is None:
                notes.append(
                    f"input {name!r} may have any size along dimension {axis}; in the file it is "
                    f"{size}, as in the sample"
                )
    return tuple(notes)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the stop at its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


def _input(value: Any, name: str) -> Any:
    """A sample's array in a type that the file has."""
    array = to_numpy(value)
    if array.dtype.kind in "OSUT" and all(isinstance(v, str | bytes) for v in array.flat):
        raise DataError(
            f"input {name!r} is text, and the runtime has numbers alone: export the part of the "
            "model behind what turns text into numbers"
        )
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"input {name!r} must be an array of numbers. Received: {type(value).__name__}"
        )
    return array.astype(_NARROW.get(array.dtype.kind, array.dtype))


def free_name(name: str, taken: set[str]) -> str:
    """The name, or one like it that nothing else has; it is taken then."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
