"""Elementwise arithmetic: ops without an int8 form, and constants that can be worked out now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgeq.export.rewrite.base import Array, Rewrite, Site
from edgeq.flatbuffer import Operator
from edgeq.targets import Purpose

_COMMUTATIVE = ("ADD", "MUL", "MAXIMUM", "MINIMUM")
AFFINE = ("ADD", "SUB", "MUL", "DIV")
"""Ops that are affine where one operand is constant."""
_BROADCASTING = ("ADD", "SUB", "MUL", "DIV")

Affine = tuple[Array, Array]
"""Factor and summand of `x * factor + summand`, in float64."""


def _neg(site: Site, op: Operator) -> Sequence[Any]:
    minus_one = site.constant(op, "minus_one", -1)
    return [site.binary("MUL", op.inputs[0], minus_one, op.outputs[0])]


def _square(site: Site, op: Operator) -> Sequence[Any]:
    return [site.binary("MUL", op.inputs[0], op.inputs[0], op.outputs[0])]


def _pow(site: Site, op: Operator) -> Sequence[Any] | None:
    found = site.constant_operand(op)
    if found is None or found[0] != op.inputs[0] or found[1].size != 1:
        return None
    (source, exponent), output = found, op.outputs[0]
    power = float(exponent.flat[0])
    if power == 2:
        return _square(site, op)
    if power == 3:
        squared = site.tensor(op, site.shape(output))
        return [
            site.binary("MUL", source, source, squared),
            site.binary("MUL", squared, source, output),
        ]
    names = {0.5: "SQRT", -0.5: "RSQRT"}
    return [site.editor.op(names[power], [source], [output])] if power in names else None


def _add_n(site: Site, op: Operator) -> Sequence[Any] | None:
    first, *rest = op.inputs
    if not rest:
        return site.alias(op, first)
    sums = [site.tensor(op, site.shape(op.outputs[0])) for _ in rest[1:]] + [op.outputs[0]]
    return [
        site.binary("ADD", one, other, total)
        for one, other, total in zip([first, *sums], rest, sums, strict=False)
    ]


def _squared_difference(site: Site, op: Operator) -> Sequence[Any]:
    one, other = op.inputs
    difference = site.tensor(op, site.shape(op.outputs[0]))
    return [
        site.binary("SUB", one, other, difference),
        site.binary("MUL", difference, difference, op.outputs[0]),
    ]


def _division(site: Site, op: Operator) -> Sequence[Any] | None:
    divisor = site.value(op.inputs[1])
    if divisor is None or not np.isfinite(_reciprocal(divisor)).all():
        return None
    inverse = site.constant(op, "reciprocal", _reciprocal(divisor))
    activation = op.fused_activation
    return [site.binary("MUL", op.inputs[0], inverse, op.outputs[0], activation)]


def _reciprocal(divisor: Array) -> Array:
    """`1 / divisor`; NaN where that is not a normal number."""
    with np.errstate(all="ignore"):
        inverse = 1 / divisor.astype(np.float32)
    is_normal = np.abs(inverse) >= np.finfo(np.float32).tiny
    return np.where(is_normal, inverse, np.nan).astype(np.float32)


def affine(site: Site, op: Operator) -> tuple[int, Affine] | None:
    """`(x, (factor, summand))` of an op that computes `x * factor + summand`, if it does.

    Its fused activation comes after that.
    """
    found = site.constant_operand(op)
    if found is None or op.name not in AFFINE:
        return None
    source, constant = found[0], found[1].astype(np.float64)
    comes_first = source == op.inputs[0]
    one, zero = np.ones(()), np.zeros(())
    if op.name == "ADD":
        return source, (one, constant)
    if op.name == "MUL":
        return source, (constant, zero)
    if op.name == "SUB":
        return source, (one, -constant) if comes_first else (-one, constant)
    if not comes_first or not np.isfinite(_reciprocal(constant)).all():
        return None
    return source, (1 / constant, zero)


def _affine_chain(site: Site, op: Operator) -> Sequence[Any] | None:
    """One MUL and one ADD, or one of them, instead of a longer chain with constants."""
    found = affine(site, op)
    if found is None:
        return None
    source, (factor, summand), count = affine_before(site, *found)
    count += 1
    multiplies, adds = bool((factor != 1).any()), bool((summand != 0).any())
    if not multiplies and not adds and op.fused_activation == "NONE":
        return site.alias(op, source)
    if count <= max(multiplies + adds, 1):
        return None
    return _multiply_add(site, op, source, factor, summand if adds or not multiplies else None)


def affine_before(site: Site, source: int, found: Affine) -> tuple[int, Affine, int]:
    """`(x, (factor, summand))` with the affine steps in front of `x`, and how many these are."""
    (factor, summand), count = found, 0
    while before := _before(site, source):
        source, (inner_factor, inner_summand) = before
        summand = inner_summand * factor + summand
        factor = inner_factor * factor
        count += 1
    return source, (factor, summand), count


def _before(site: Site, tensor: int) -> tuple[int, Affine] | None:
    """The affine step before a tensor that one op alone reads: a MUL or ADD with a constant."""
    op = site.producer(tensor, *AFFINE)
    if op is None or op.fused_activation != "NONE" or not site.is_read_once(tensor):
        return None
    return affine(site, op)


def _multiply_add(
    site: Site, op: Operator, source: int, factor: Array, summand: Array | None
) -> Sequence[Any]:
    output, activation = op.outputs[0], op.fused_activation
    ops = []
    if (factor != 1).any():
        scaled = output if summand is None else site.tensor(op, site.shape(output))
        fused = activation if summand is None else "NONE"
        ops.append(site.binary("MUL", source, site.constant(op, "factor", factor), scaled, fused))
        source = scaled
    if summand is not None:
        shift = site.constant(op, "summand", summand)
        ops.append(site.binary("ADD", source, shift, output, activation))
    return ops


def _centred(site: Site, op: Operator) -> Sequence[Any] | None:
    """`x * r - m * r`, as normalisations are written, as `(x - m) * r`."""
    for product, rest in (op.inputs, op.inputs[::-1]):
        found = _product_minus(site, product, rest)
        if found is None:
            continue
        source, mean, factor = found
        ops, shape = [], site.shape(rest)
        if site.shape(mean) != shape:
            aligned = site.tensor(op, shape)
            ops.append(site.reshape(op, mean, aligned, shape))
            mean = aligned
        centred = site.tensor(op, site.shape(source))
        return [
            *ops,
            site.binary("SUB", source, mean, centred),
            site.binary("MUL", centred, factor, op.outputs[0], op.fused_activation),
        ]
    return None


def _product_minus(site: Site, product: int, rest: int) -> tuple[int, int, int] | None:
    """`(x, m, r)` where `product` is `x * r` and `rest` is `-m * r`, `r` reshaped alike."""
    scaled = site.producer(product, "MUL")
    negated = site.producer(_unshaped(site, rest), "SUB")
    if scaled is None or negated is None or not _is_zero(site, negated.inputs[0]):
        return None
    inner = site.producer(negated.inputs[1], "MUL")
    if inner is None or any(o.fused_activation != "NONE" for o in (scaled, negated, inner)):
        return None
    for source, factor in (scaled.inputs, scaled.inputs[::-1]):
        for mean, other in (inner.inputs, inner.inputs[::-1]):
            is_same = _unshaped(site, factor) == _unshaped(site, other)
            shapes = {site.shape(t) for t in (*inner.inputs, *inner.outputs)}
            if is_same and len(shapes) == 1 and site.shape(factor) == site.shape(rest):
                return (source, mean, factor) if site.shape(source) == site.shape(product) else None
    return None


def _unshaped(site: Site, tensor: int) -> int:
    """The tensor before any RESHAPE."""
    while op := site.producer(tensor, "RESHAPE"):
        tensor = op.inputs[0]
    return tensor


def _is_zero(site: Site, tensor: int) -> bool:
    value = site.value(tensor)
    return value is not None and not value.any()


def _twin(site: Site, op: Operator) -> Sequence[Any] | None:
    """Finds the results of an earlier op that computes the same."""
    twin = site.twin(op)
    return None if twin is None else site.alias(op, twin.outputs[0])


def _constant_last(site: Site, op: Operator) -> Sequence[Any] | None:
    """The operands the other way round."""
    if len(op.inputs) != 2 or site.value(op.inputs[0]) is None:
        return None
    is_computed = site.value(op.inputs[1]) is None
    return [site.editor.copied(op.index, op.inputs[::-1], op.outputs)] if is_computed else None


def _broadcasting(site: Site, op: Operator) -> Sequence[Any] | None:
    """Reads what a BROADCAST_TO or TILE spreads: the op spreads it itself."""
    shapes = [site.shape(t) for t in op.inputs]
    inputs = list(op.inputs)
    for slot, tensor in enumerate(op.inputs):
        spread = site.producer(tensor, "BROADCAST_TO", "TILE")
        if spread is None or len(shapes) != 2:
            continue
        narrow = site.shape(spread.inputs[0])
        is_spread = all(d in (1, full) for d, full in _aligned(narrow, shapes[slot]))
        others = [narrow if s == slot else shape for s, shape in enumerate(shapes)]
        if is_spread and np.broadcast_shapes(*others) == site.shape(op.outputs[0]):
            inputs[slot], shapes[slot] = spread.inputs[0], narrow
    if inputs == list(op.inputs):
        return None
    return [site.editor.copied(op.index, inputs, op.outputs)]


def _aligned(narrow: Sequence[int], full: Sequence[int]) -> list[tuple[int, int]]:
    """Dimensions side by side from the last on."""
    return list(zip(narrow[::-1], full[::-1], strict=False))


REWRITES = (
    Rewrite(
        "repeated op", (*AFFINE, "RESHAPE", "TRANSPOSE", "MEAN", "PAD"),
        "the first of two that compute the same", "once is enough", True, _twin,
    ),
    Rewrite(
        "constant first", _COMMUTATIVE, "the operands swapped",
        "the converter swaps them itself, and leaves the op float", True, _constant_last,
    ),
    Rewrite(
        "centred product", ("ADD",), "SUB, MUL instead of two products and their difference",
        "the products are far larger than the difference, and so are their int8 steps", False,
        _centred,
    ),
    Rewrite(
        "broadcast operand", _BROADCASTING, "the op itself, which broadcasts",
        "int8 BROADCAST_TO and TILE are not delegated", True, _broadcasting,
    ),
    Rewrite(
        "division by a constant", ("DIV",), "MUL by the reciprocal",
        "int8 DIV is not delegated", False, _division,
    ),
    Rewrite(
        "chain of constants", AFFINE, "one MUL and one ADD",
        "each int8 op rounds once more", False, _affine_chain,
    ),
    Rewrite("negation", ("NEG",), "MUL by -1", "NEG has no int8 form", True, _neg),
    Rewrite("square", ("SQUARE",), "MUL of a tensor by itself", "SQUARE has no int8 form", True,
            _square),
    Rewrite("power", ("POW",), "MUL for 2 and 3, SQRT for 0.5, RSQRT for -0.5",
            "POW has no int8 form", False, _pow),
    Rewrite("sum of many", ("ADD_N",), "a chain of ADD", "ADD_N has no int8 form", False, _add_n),
    Rewrite(
        "squared difference", ("SQUARED_DIFFERENCE",), "SUB, MUL of the difference by itself",
        "int8 SQUARED_DIFFERENCE is not delegated", True, _squared_difference,
        Purpose.DELEGATION,
    ),
)  # fmt: skip
