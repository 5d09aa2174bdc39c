"""`Emitter`: emits a traced program op by op, every op under the path of its layer."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from edgeq.errors import ModelError, UnsupportedOpError
from edgeq.export.frontends.jaxpr.calls import BODIES, CALLS, LINEAR_SOLVE, opened, solving
from edgeq.export.frontends.jaxpr.canonical import CANONICAL, highest_alone, swapped_dot
from edgeq.export.frontends.jaxpr.complex_parts import (
    Pair,
    is_complex,
    on_constants,
    on_pairs,
)
from edgeq.export.frontends.jaxpr.exact_gelu import find_gelus, gelu
from edgeq.export.frontends.jaxpr.loose_places import loose_gathers
from edgeq.export.frontends.jaxpr.places import nearest_gather
from edgeq.export.frontends.jaxpr.scans.bounded_loops import unrolled
from edgeq.export.frontends.jaxpr.scans.recurrent_scans import RecurrentLayer, find_layer
from edgeq.export.frontends.jaxpr.traced_values import (
    NARROW,
    Value,
    arrays_of,
    as_constant,
    computed_now,
    is_traced,
    is_unsigned,
    joined_parts,
    known,
    looked_up,
    signed,
    unsigned_iota,
    wide,
)

OPS_MAX = 50_000
"""Most ops that unrolled loops may come to; the converter needs minutes for more."""

SMALL = 1 << 14
"""Numbers of a constant whose parts are computed here, where what reads them may be looked into."""

_TRANSFORM = re.compile(r"\w+\(([^()]*)\)")

_WEIGHTED = ("dot_general", "conv_general_dilated")
_ON_THE_HOST = ("debug_callback", "debug_print")
"""Primitives that compute nothing of what is returned."""

_LEFT_TO_CONVERTER = (
    "broadcast_in_dim", "composite", "copy", "expand_dims", "iota", "reshape", "rev", "slice",
    "squeeze", "transpose",
)  # fmt: skip
"""Primitives on constants that the converter sees: it moves them itself, and shares what it moved
among readers; and composites say how a weight was quantized."""

ABSOLUTE = "@"
"""Stands before the name of a scope that is a whole path, and does not go on from the outer one."""

LAYER_END = "|"
"""Stands behind the path of the layer in the name of every op that is emitted."""


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
        narrow: Types of fewer bits that the program computes in; what is emitted is float32.
    """

    root: str = ""
    narrow: set[str] = field(default_factory=set)
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
        arguments = [Value(a, False, owner) for owner, a in parameters]
        arguments += [Value(a, True) for a in inputs]
        found = self._run(program.jaxpr, program.consts, arguments, "")
        return [value.array for value in found], [value.owner for value in found]

    def _run(
        self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value], scope: str
    ) -> list[Value]:
        values: dict[Any, Value] = {}
        values.update(zip(jaxpr.constvars, (as_constant(c) for c in consts), strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))
        gelus, loose = find_gelus(jaxpr.eqns), loose_gathers(jaxpr.eqns)
        used = (*(atom for eqn in jaxpr.eqns for atom in eqn.invars), *jaxpr.outvars)
        read = {atom for atom in used if not hasattr(atom, "val")}
        for eqn in jaxpr.eqns:
            operands = [looked_up(values, atom) for atom in eqn.invars]
            path = _joined(scope, str(eqn.source_info.name_stack))
            source = gelus.get(eqn.outvars[0]) if eqn.outvars else None
            if source is not None:
                found = [self._bind(gelu, [looked_up(values, source)], path, "gelu")]
            elif eqn.primitive.name == "top_k" and eqn.outvars[1] not in read:
                alone = functools.partial(highest_alone, **eqn.params)
                found = self._bind_all(alone, operands, path, "top_k")
            elif eqn.outvars and eqn.outvars[0] in loose:
                nearest = functools.partial(nearest_gather, **eqn.params)
                found = [self._bind(nearest, operands, path, "gather")]
            else:
                found = self._eqn(eqn, operands, path)
            values.update(zip(eqn.outvars, found, strict=True))
        return [looked_up(values, atom) for atom in jaxpr.outvars]

    def _eqn(self, eqn: Any, operands: list[Value], path: str) -> list[Value]:
        name = eqn.primitive.name
        if name in CALLS:
            program = next(eqn.params[key] for key in BODIES if key in eqn.params)
            return self._run(*opened(program), operands, path)
        if name == LINEAR_SOLVE:
            program, given = solving(eqn.params, operands)
            return self._run(*opened(program), given, path)
        if name == "copy":
            return operands
        if name in _ON_THE_HOST:
            return []
        if name == "scan":
            return self._unroll(eqn, operands, path)
        if name == "cond":
            return self._select(eqn, operands, path)
        if name == "while":
            return self._bounded(eqn, operands, path)
        if name == "iota" and is_unsigned(eqn.params["dtype"]):
            return [Value(unsigned_iota(**eqn.params), False)]  # the converter has none to compare
        if name == "and" and any(_is_false(operand) for operand in operands):
            return [Value(np.zeros(eqn.outvars[0].aval.shape, bool), False)]
        return self._plain(eqn, operands, path)

    def _plain(self, eqn: Any, operands: list[Value], path: str) -> list[Value]:
        name = eqn.primitive.name
        layer = self._layer(path, name, operands)
        computed = any(o.computed for o in operands)
        if any(is_complex(atom) for atom in (*eqn.invars, *eqn.outvars)):
            return self._on_pairs(eqn, operands, path)
        kinds = {str(getattr(var.aval, "dtype", "")) for var in eqn.outvars}
        if computed and "float64" in kinds:
            raise ModelError(
                f"{name} at {layer} computes in float64; edgeq exports from float32: make the "
                "model with dtype=float32 and its parameters float32"
            )
        self.narrow |= kinds.intersection(NARROW)
        if name == "dot_general" and not operands[0].computed and operands[1].computed:
            function: Any = swapped_dot
        else:
            function = CANONICAL.get(name, eqn.primitive.bind)
        params = {key: wide(value) for key, value in eqn.params.items()}
        if computed:
            operands = signed(operands)
            params = {key: np.dtype(np.int32) if is_unsigned(v) else v for key, v in params.items()}
        emit = self._bind_all if eqn.primitive.multiple_results else self._bind_one
        return emit(functools.partial(function, **params), operands, path, name)

    def _on_pairs(self, eqn: Any, operands: list[Value], path: str) -> list[Value]:
        """An op of complex numbers, as one of their parts."""
        name = eqn.primitive.name
        if not any(o.computed or is_traced(o.array) for o in operands):
            made = on_constants(eqn.primitive, eqn.params, arrays_of(operands))
            return [Value(array, False) for array in made]
        rule = on_pairs(eqn.primitive, eqn.params)
        if rule is None:
            raise UnsupportedOpError(
                f"{name} of complex numbers at {self._layer(path, name, operands)} has no form in "
                "real numbers here; compute with real and imaginary parts instead"
            )
        pairs = [isinstance(o.array, Pair) for o in operands]
        parts = [
            replace(o, array=part)
            for o in operands
            for part in (o.array if isinstance(o.array, Pair) else (o.array,))
        ]

        def function(*arrays: Any) -> list[Any]:
            rest = iter(arrays)
            given = [Pair(next(rest), next(rest)) if pair else next(rest) for pair in pairs]
            return [
                p for made in rule(*given) for p in (made if isinstance(made, Pair) else (made,))
            ]

        found = iter(self._bind_all(function, parts, path, name))
        return [joined_parts(found) if is_complex(var) else next(found) for var in eqn.outvars]

    def _bind(self, function: Any, operands: Sequence[Value], path: str, name: str) -> Value:
        return self._bind_one(function, operands, path, name)[0]

    def _bind_one(
        self, function: Any, operands: Sequence[Value], path: str, name: str
    ) -> list[Value]:
        return self._bind_all(lambda *a: [function(*a)], operands, path, name)

    def _bind_all(
        self, function: Any, operands: Sequence[Value], path: str, name: str
    ) -> list[Value]:
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
        is_left = computed or (name in _LEFT_TO_CONVERTER and not _is_small_part(name, operands))
        arrays = None if is_left else computed_now(function, arrays_of(operands))
        if arrays is None:
            with jax.named_scope(layer + LAYER_END):
                arrays = function(*arrays_of(operands))
        owner = layer if computed else next((o.owner for o in operands if o.owner), "")
        return [Value(array, computed, owner) for array in arrays]

    def _layer(self, path: str, name: str, operands: Sequence[Value]) -> str:
        """Path of the scope, or of the owner of a parameter that is read, or the op's own name."""
        scope = path.removeprefix(self.root).lstrip("/") if self._in_root(path) else path
        owned = (o.owner for o in operands if o.owner and not o.computed)
        return scope or next(owned, name)

    def _in_root(self, path: str) -> bool:
        return bool(self.root) and (path == self.root or path.startswith(f"{self.root}/"))

    def _unroll(self, eqn: Any, operands: list[Value], path: str) -> list[Value]:
        """A scan as its steps, one behind the other, or as the layer that it is."""
        params = eqn.params
        fixed, carried = params["num_consts"], params["num_carry"]
        consts, carry = operands[:fixed], operands[fixed : fixed + carried]
        rows = operands[fixed + carried :]
        layer = None if any(c.computed for c in consts) else find_layer(eqn, arrays_of(consts))
        if layer is not None:
            return self._recurrent(layer, eqn, operands, path)
        steps = range(params["length"])
        stacked: list[list[Value]] = []
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
            found = self._run(*opened(params["jaxpr"]), [*consts, *carry, *items], path)
            carry = found[:carried]
            stacked.append(found[carried:])
        if params["reverse"]:
            stacked.reverse()
        columns = zip(*stacked, strict=True) if stacked else ()
        return carry + [
            self._bind(lambda *a: jnp.stack(a), column, path, "stack") for column in columns
        ]

    def _bounded(self, eqn: Any, operands: list[Value], path: str) -> list[Value]:
        """A loop that ends by its condition, as its steps."""
        params = eqn.params
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        of_condition, of_body, carry = operands[:first], operands[first:last], operands[last:]
        found = unrolled(
            carry,
            lambda view: self._run(*opened(params["cond_jaxpr"]), [*of_condition, *view], path)[0],
            lambda view: self._run(*opened(params["body_jaxpr"]), [*of_body, *view], path),
            known,
            lambda function, values: self._bind(function, values, path, "select"),
        )
        if found is None:
            raise UnsupportedOpError(
                f"the loop at {self._layer(path, 'while', operands)} runs until a computed value "
                "says so (while_loop, or fori_loop with bounds that are traced); give "
                "jax.lax.scan or fori_loop a trip count that is a Python int, or bound the steps "
                "of while_loop by a counter in its condition"
            )
        return found

    def _recurrent(
        self, layer: RecurrentLayer, eqn: Any, operands: list[Value], path: str
    ) -> list[Value]:
        """A scan that a recurrent layer is, as one call."""
        owner = next((o.owner for o in operands if o.owner), "")
        turn = -1 if eqn.params["reverse"] else 1

        def scan(*arrays: Any) -> list[Any]:
            *states, rows = arrays
            outputs, ends = layer.scanned(states, rows[::turn])
            return [*ends, *[outputs[::turn]] * (len(eqn.outvars) - len(ends))]

        return self._bind_all(
            scan, operands[-1 - eqn.params["num_carry"] :], path or owner, "recurrent_layer"
        )

    def _select(self, eqn: Any, operands: list[Value], path: str) -> list[Value]:
        """All branches, of whose results the index selects."""
        index, *arguments = operands
        branches = [self._run(*opened(b), arguments, path) for b in eqn.params["branches"]]
        return [
            self._bind(_chosen, [index, *results], path, "select")
            for results in zip(*branches, strict=True)
        ]


def _is_false(value: Value) -> bool:
    number = known(value)
    return number is not None and number.dtype == bool and not number.any()


def _is_small_part(name: str, operands: Sequence[Value]) -> bool:
    """Whether an op picks a bias, for example, of a few that are stored as one."""
    return name in ("slice", "squeeze") and all(np.size(o.array) <= SMALL for o in operands)


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
