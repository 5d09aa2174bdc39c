"""Emits a traced JAX program again, in the form that the converter turns into the right ops.

Calls are inlined, scans unrolled, branches computed and selected from; a weight on the left of a
dot goes to its right, and the exact GELU becomes one op. Every op is emitted under the path of its
layer. Knows primitives, nothing of modules or files.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgeq.errors import ModelError, UnsupportedOpError

OPS_MAX = 50_000
"""Most ops that unrolled loops may come to; the converter needs minutes for more."""

_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"}
    | {"custom_vjp_call_jaxpr", "remat", "remat2", "checkpoint"}
)
"""Primitives that only call another program."""

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Under which of its parameters a call keeps that program, by its primitive and version of JAX."""

_TRANSFORM = re.compile(r"\w+\(([^()]*)\)")
_ELEMENTWISE = frozenset({"mul", "div", "add", "sub", "neg", "erf", "erfc", "copy"})
_WEIGHTED = ("dot_general", "conv_general_dilated")
_WIDE = ("float64", "float16", "bfloat16", "complex64", "complex128")
_GELU_GRID = np.linspace(-6.0, 6.0, 101, dtype=np.float32)
_GELU_TOLERANCE = 1e-4

ABSOLUTE = "@"
"""Stands before the name of a scope that is a whole path, and does not go on from the outer one."""

LAYER_END = "|"
"""Stands behind the path of the layer in the name of every op that is emitted."""


@dataclass(frozen=True)
class _Value:
    """What a variable holds while the program is emitted.

    Attributes:
        array: The traced or given array.
        computed: Whether it depends on the model's inputs; otherwise it is a constant.
        owner: Path of the layer that owns the parameter that it is made of, where known.
    """

    array: Any
    computed: bool
    owner: str = ""


@dataclass(frozen=True)
class Emitted:
    """One op as it was emitted, to be tried alone where the whole fails.

    Attributes:
        name: Of its primitive.
        layer: Path of its layer.
        function: `(*operands)` to the list of its results.
        operands: Shape and type of each operand.
    """

    name: str
    layer: str
    function: Callable[..., list[Any]]
    operands: tuple[Any, ...]


@dataclass
class Emitter:
    """Emits one program.

    Attributes:
        root: Name of the model itself, which is left out of layer paths.
        ops: The first computed op of each kind and operand types.
    """

    root: str = ""
    _layers: dict[str, None] = field(default_factory=dict)
    _weighted: dict[str, None] = field(default_factory=dict)
    ops: dict[object, Emitted] = field(default_factory=dict)
    _count: int = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of the layers that compute something, in the order they run.

        Those with a dot or convolution come first: they own what is fused into it.
        """
        return tuple({**self._weighted, **self._layers})

    def emit(
        self, program: Any, parameters: Sequence[tuple[str, Any]], inputs: Sequence[Any]
    ) -> tuple[list[Any], list[str]]:
        """Emits a closed jaxpr into the program that JAX is tracing now.

        Args:
            program: Of which the first arguments are the parameters.
            parameters: `(layer that owns it, array)` of each.
            inputs: The traced inputs.

        Returns:
            The traced outputs, and the layer that computes each of them.

        Raises:
            UnsupportedOpError: A loop without a known end, or one that is too long.
            ModelError: An op computes in another type than float32.
        """
        arguments = [_Value(a, False, owner) for owner, a in parameters]
        arguments += [_Value(a, True) for a in inputs]
        found = self._run(program.jaxpr, program.consts, arguments, "")
        return [value.array for value in found], [value.owner for value in found]

    def _run(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[_Value], scope: str
    ) -> list[_Value]:
        values: dict[Any, _Value] = {}
        values.update(zip(jaxpr.constvars, (_as_constant(c) for c in consts), strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))
        gelus = _find_gelus(jaxpr.eqns)
        for eqn in jaxpr.eqns:
            operands = [_read(values, atom) for atom in eqn.invars]
            path = _joined(scope, str(eqn.source_info.name_stack))
            source = gelus.get(eqn.outvars[0]) if eqn.outvars else None
            if source is not None:
                found = [self._bind(_gelu, [_read(values, source)], path, "gelu")]
            else:
                found = self._eqn(eqn, operands, path)
            values.update(zip(eqn.outvars, found, strict=True))
        return [_read(values, atom) for atom in jaxpr.outvars]

    def _eqn(self, eqn: Any, operands: list[_Value], path: str) -> list[_Value]:
        name = eqn.primitive.name
        if name in _CALLS:
            program = next(eqn.params[key] for key in _BODIES if key in eqn.params)
            return self._run(*_opened(program), operands, path)
        if name == "copy":
            return operands
        if name == "scan":
            return self._unroll(eqn, operands, path)
        if name == "cond":
            return self._select(eqn, operands, path)
        if name == "while":
            raise UnsupportedOpError(
                f"the loop at {self._layer(path, name, operands)} runs until a computed value says "
                "so (while_loop, or fori_loop with bounds that are traced); give jax.lax.scan or "
                "fori_loop a trip count that is a Python int"
            )
        return self._plain(eqn, operands, path)

    def _plain(self, eqn: Any, operands: list[_Value], path: str) -> list[_Value]:
        name = eqn.primitive.name
        layer = self._layer(path, name, operands)
        computed = any(o.computed for o in operands)
        for var in eqn.outvars:
            if computed and str(getattr(var.aval, "dtype", "")) in _WIDE:
                raise ModelError(
                    f"{name} at {layer} computes in {var.aval.dtype}; edgeq exports from float32: "
                    "make the model with dtype=float32 and its parameters float32"
                )
        if name == "dot_general" and not operands[0].computed and operands[1].computed:
            function: Any = _swapped_dot
        else:
            function = _CANONICAL.get(name, eqn.primitive.bind)
        emit = self._bind_all if eqn.primitive.multiple_results else self._bind_one
        return emit(functools.partial(function, **eqn.params), operands, path, name)

    def _bind(self, function: Any, operands: Sequence[_Value], path: str, name: str) -> _Value:
        return self._bind_one(function, operands, path, name)[0]

    def _bind_one(
        self, function: Any, operands: Sequence[_Value], path: str, name: str
    ) -> list[_Value]:
        return self._bind_all(lambda *a: [function(*a)], operands, path, name)

    def _bind_all(
        self, function: Any, operands: Sequence[_Value], path: str, name: str
    ) -> list[_Value]:
        """Emits one op under the path of its layer."""
        self._count += 1
        if self._count > OPS_MAX:
            raise UnsupportedOpError(
                f"the model's loops come to more than {OPS_MAX} ops when they are unrolled, at "
                f"{self._layer(path, name, operands)}; shorten the sequence of the sample"
            )
        layer = self._layer(path, name, operands)
        computed = any(o.computed for o in operands)
        if computed:
            (self._weighted if name in _WEIGHTED else self._layers).setdefault(layer)
            specs = tuple(jax.ShapeDtypeStruct(np.shape(o.array), o.array.dtype) for o in operands)
            self.ops.setdefault((name, specs), Emitted(name, layer, function, specs))
        with jax.named_scope(layer + LAYER_END):
            arrays = function(*(o.array for o in operands))
        owner = layer if computed else next((o.owner for o in operands if o.owner), "")
        return [_Value(array, computed, owner) for array in arrays]

    def _layer(self, path: str, name: str, operands: Sequence[_Value]) -> str:
        """Path of the scope, or of the owner of a parameter that is read, or the op's own name."""
        scope = path.removeprefix(self.root).lstrip("/") if self._in_root(path) else path
        owned = (o.owner for o in operands if o.owner and not o.computed)
        return scope or next(owned, name)

    def _in_root(self, path: str) -> bool:
        return bool(self.root) and (path == self.root or path.startswith(f"{self.root}/"))

    def _unroll(self, eqn: Any, operands: list[_Value], path: str) -> list[_Value]:
        """A scan as its steps, one behind the other."""
        params = eqn.params
        fixed, carried = params["num_consts"], params["num_carry"]
        consts, carry = operands[:fixed], operands[fixed : fixed + carried]
        rows = operands[fixed + carried :]
        steps = range(params["length"])
        stacked: list[list[_Value]] = []
        for step in reversed(steps) if params["reverse"] else steps:
            items = [
                self._bind(
                    lambda a, s=step: jax.lax.index_in_dim(a, s, keepdims=False),
                    [row],
                    path,
                    "slice",
                )
                for row in rows
            ]
            found = self._run(*_opened(params["jaxpr"]), [*consts, *carry, *items], path)
            carry = found[:carried]
            stacked.append(found[carried:])
        if params["reverse"]:
            stacked.reverse()
        columns = zip(*stacked, strict=True) if stacked else ()
        return carry + [
            self._bind(lambda *a: jnp.stack(a), column, path, "stack") for column in columns
        ]

    def _select(self, eqn: Any, operands: list[_Value], path: str) -> list[_Value]:
        """All branches, of whose results the index selects."""
        index, *arguments = operands
        branches = [self._run(*_opened(b), arguments, path) for b in eqn.params["branches"]]
        return [
            self._bind(_chosen, [index, *results], path, "select")
            for results in zip(*branches, strict=True)
        ]


def _opened(program: Any) -> tuple[Any, Sequence[Any]]:
    """`(jaxpr, constants)` of a program that may be closed."""
    return (program.jaxpr, program.consts) if hasattr(program, "consts") else (program, ())


def _as_constant(value: Any) -> _Value:
    return _Value(value if hasattr(value, "dtype") else jnp.asarray(value), False)


def _read(values: Mapping[Any, _Value], atom: Any) -> _Value:
    return _as_constant(atom.val) if hasattr(atom, "val") else values[atom]


def _joined(scope: str, stack: str) -> str:
    """Path of a scope in another, without what transformations like vmap wrote around its name."""
    if ABSOLUTE in stack:
        scope, stack = "", stack.rpartition(ABSOLUTE)[2]
    while _TRANSFORM.search(stack):
        stack = _TRANSFORM.sub(r"\1", stack)
    parts = (*scope.split("/"), *stack.split("/"))
    return "/".join(part for part in parts if part and "->" not in part)  # not einsum's formula


def _chosen(index: Any, *cases: Any) -> Any:
    if len(cases) == 1:
        return cases[0]
    bounded = index if index.dtype == bool else jnp.clip(index, 0, len(cases) - 1)
    return jax.lax.select_n(bounded, *cases)


def _gelu(x: Any) -> Any:
    def exact(x: Any, approximate: bool) -> Any:
        return jax.nn.gelu(x, approximate=approximate)

    return jax.lax.composite(exact, "tfl.gelu")(x, approximate=False)


def _swapped_dot(left: Any, right: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    """`dot_general(left, right)`, computed with the weight `left` on the right.

    The converter makes a fully connected op of any dot with a constant, and takes the right one for
    the weight.
    """
    (left_dims, right_dims), (left_batch, right_batch) = dimension_numbers
    result = jax.lax.dot_general(
        right, left, ((right_dims, left_dims), (right_batch, left_batch)),
        preferred_element_type=params.get("preferred_element_type"),
    )  # fmt: skip
    batch = len(left_batch)
    left_free = left.ndim - batch - len(left_dims)
    right_free = right.ndim - batch - len(right_dims)
    order = [
        *range(batch),
        *range(batch + right_free, batch + right_free + left_free),
        *range(batch, batch + right_free),
    ]
    return result if order == sorted(order) else jnp.transpose(result, order)


def _cropped_transposed_convolution(image: Any, kernel: Any, **params: Any) -> Any:
    """A convolution of a dilated image, padded alike on both sides of it.

    The converter computes another shape than it should where the two sides differ.
    """
    padding, dilation = params["padding"], params["lhs_dilation"]
    numbers = params["dimension_numbers"]
    if all(d == 1 for d in dilation) or all(low == high for low, high in padding):
        return jax.lax.conv_general_dilated_p.bind(image, kernel, **params)
    taps = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    dilated = [(t - 1) * d for t, d in zip(taps, params["rhs_dilation"], strict=True)]
    full = [max(size, *pair) for size, pair in zip(dilated, padding, strict=True)]
    wide = {**params, "padding": tuple((size, size) for size in full)}
    result = jax.lax.conv_general_dilated_p.bind(image, kernel, **wide)
    for axis, size, (low, high) in zip(numbers.out_spec[2:], full, padding, strict=True):
        end = result.shape[axis] - (size - high)
        result = jax.lax.slice_in_dim(result, size - low, end, axis=axis)
    return result


def _max_pool_of_images(row: Any, **params: Any) -> Any:
    """A max pool along one axis as one of images, which is the one that kernels have."""
    windows = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    if row.ndim != 3:
        return jax.lax.reduce_window_max_p.bind(row, **params)
    wide = {key: (params[key][0], 1, *params[key][1:]) for key in windows}
    low_high = params["padding"]
    wide["padding"] = (low_high[0], (0, 0), *low_high[1:])
    image = jnp.expand_dims(row, 1)
    return jnp.squeeze(jax.lax.reduce_window_max_p.bind(image, **{**params, **wide}), 1)


def _gather_in_bounds(table: Any, indices: Any, **params: Any) -> Any:
    """A gather without the check of its indices, which kernels do themselves."""
    mode = jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS
    return jax.lax.gather_p.bind(table, indices, **{**params, "mode": mode})


_CANONICAL: Mapping[str, Any] = {
    "conv_general_dilated": _cropped_transposed_convolution,
    "reduce_window_max": _max_pool_of_images,
    "gather": _gather_in_bounds,
}
"""What primitives are emitted as that the converter has no good form of."""


def _find_gelus(eqns: Sequence[Any]) -> dict[Any, Any]:
    """Variables that hold the exact GELU of another, with that other.

    However it is written, as `0.5 * x * (1 + erf(x / sqrt(2)))` or with erfc: the ops around each
    error function are tried on numbers.
    """
    made_by = {var: eqn for eqn in eqns for var in eqn.outvars}
    found: dict[Any, Any] = {}
    for eqn in eqns:
        if len(eqn.invars) == 1 and _is_elementwise(eqn) and _has_error_function(eqn):
            source = eqn.invars[0]
            while (behind := _scaled(made_by.get(source))) is not None:
                source = behind
                found.update(_gelu_of(source, eqns))
    return found


def _scaled(eqn: Any) -> Any:
    """The variable that an op scales or negates; None if it does something else."""
    if eqn is None or eqn.primitive.name not in ("mul", "div", "neg"):
        return None
    variables = [atom for atom in eqn.invars if not hasattr(atom, "val")]
    return variables[0] if len(variables) == 1 else None


def _gelu_of(source: Any, eqns: Sequence[Any]) -> dict[Any, Any]:
    """The first variable that is the GELU of `source`, of those that depend on nothing else."""
    known: dict[Any, Any] = {source: _GELU_GRID}
    for eqn in eqns:
        variables = [atom for atom in eqn.invars if not hasattr(atom, "val")]
        if variables and all(v in known for v in variables) and _is_elementwise(eqn):
            var, values = eqn.outvars[0], _on_grid(eqn, known)
            if np.abs(values - _exact_gelu()).max() < _GELU_TOLERANCE:
                return {var: source}
            known[var] = values
    return {}


def _body(eqn: Any) -> Any:
    """The jaxpr that an op calls; None if it calls none."""
    if eqn.primitive.name not in _CALLS:
        return None
    return _opened(next(eqn.params[key] for key in _BODIES if key in eqn.params))[0]


def _is_elementwise(eqn: Any) -> bool:
    body = _body(eqn)
    if body is None:
        return eqn.primitive.name in _ELEMENTWISE
    return not body.constvars and all(map(_is_elementwise, body.eqns))


def _has_error_function(eqn: Any) -> bool:
    body = _body(eqn)
    inner = () if body is None else body.eqns
    return eqn.primitive.name in ("erf", "erfc") or any(map(_has_error_function, inner))


def _on_grid(eqn: Any, known: Mapping[Any, Any]) -> Any:
    """The result of an elementwise op on values of another shape than it was traced with."""
    operands = [atom.val if hasattr(atom, "val") else known[atom] for atom in eqn.invars]
    body = _body(eqn)
    if body is None:
        with jax.ensure_compile_time_eval():
            arrays = [jnp.asarray(operand, jnp.float32) for operand in operands]
            return np.asarray(eqn.primitive.bind(*arrays, **eqn.params))
    inner = dict(zip(body.invars, operands, strict=True))
    for each in body.eqns:
        inner[each.outvars[0]] = _on_grid(each, inner)
    last = body.outvars[0]
    return last.val if hasattr(last, "val") else inner[last]


@functools.cache
def _exact_gelu() -> Any:
    values = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in _GELU_GRID.tolist()]
    return np.array(values, np.float32)
