"""Chains of RESHAPE and TRANSPOSE: what they do to dimensions, and the shortest that does it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.export.rewrite.base import Shape


@dataclass(frozen=True)
class Step:
    """One op of a layout change: `order` of a TRANSPOSE or None, and the shape that it makes."""

    shape: Shape
    order: Shape | None


class Factors:
    """Follows the dimensions of a tensor, cut into factors, through RESHAPE and TRANSPOSE."""

    def __init__(self, shape: Shape) -> None:
        self._sizes: list[int] = []
        self._source = [self._new(d) for d in shape]
        self._now = [list(dim) for dim in self._source]

    def _new(self, size: int) -> list[int]:
        """A dimension of one factor; one of size 1 has none."""
        if size == 1:
            return []
        self._sizes.append(size)
        return [len(self._sizes) - 1]

    def transpose(self, order: Sequence[int]) -> None:
        """Goes through a TRANSPOSE."""
        self._now = [self._now[axis] for axis in order]

    def reshape(self, shape: Sequence[int]) -> bool:
        """Goes through a RESHAPE; False where a new dimension takes an uneven part of an old."""
        left, dims = list(itertools.chain.from_iterable(self._now)), []
        for size in shape:
            dim: list[int] = []
            while size > 1:
                if not left:
                    return False
                factor = left[0]
                if size % self._sizes[factor] == 0:
                    size //= self._sizes[factor]
                    dim.append(left.pop(0))
                elif self._sizes[factor] % size == 0:
                    left[:1] = self._cut(factor, size)
                else:
                    return False
            dims.append(dim)
        self._now = dims
        return not left

    def _cut(self, factor: int, first: int) -> list[int]:
        """Two factors in place of one, everywhere."""
        rest = self._new(self._sizes[factor] // first)
        self._sizes[factor] = first
        for dims in (self._source, self._now):
            for dim in dims:
                if factor in dim:
                    dim[dim.index(factor) + 1 : dim.index(factor) + 1] = rest
        return [factor, *rest]

    def steps(self, source: Shape, target: Shape) -> list[Step]:
        """The shortest way from the source shape to the target's."""
        before = list(itertools.chain.from_iterable(self._source))
        after = list(itertools.chain.from_iterable(self._now))
        if before == after:
            return [] if source == target else [Step(target, None)]
        runs = _runs(before, after)
        ways = [self._way(source, target, groups) for groups in (self._source, self._now, runs)]
        return min((way for way in ways if way), key=len)

    def _way(self, source: Shape, target: Shape, groups: list[list[int]]) -> list[Step]:
        """RESHAPE to `groups` as dimensions, TRANSPOSE, RESHAPE; none if it does not lead there."""
        before = list(itertools.chain.from_iterable(self._source))
        after = list(itertools.chain.from_iterable(self._now))
        full = sorted((g for g in groups if g), key=lambda g: before.index(g[0]))
        moved = sorted(full, key=lambda g: after.index(g[0]))
        chained = [list(itertools.chain.from_iterable(g)) for g in (full, moved)]
        if chained != [before, after]:
            return []
        sizes = [math.prod(self._sizes[f] for f in g) for g in full]
        order = [full.index(g) for g in moved]
        plain = _with_units(source, target, sizes, order)
        if plain is not None:
            return [Step(target, plain)]
        steps = [] if source == tuple(sizes) else [Step(tuple(sizes), None)]
        steps.append(Step(tuple(sizes[axis] for axis in order), tuple(order)))
        return steps if steps[-1].shape == target else [*steps, Step(target, None)]


def _with_units(source: Shape, target: Shape, sizes: list[int], order: list[int]) -> Shape | None:
    """The one TRANSPOSE from source to target that does it, dimensions of size 1 included."""
    if [d for d in source if d != 1] != sizes or len(source) != len(target):
        return None
    full = [axis for axis, d in enumerate(source) if d != 1]
    units = iter([axis for axis, d in enumerate(source) if d == 1])
    moved = iter([full[axis] for axis in order])
    found = tuple(next(units if d == 1 else moved, -1) for d in target)
    leads_there = -1 not in found and tuple(source[axis] for axis in found) == target
    return found if leads_there else None


def _runs(before: list[int], after: list[int]) -> list[list[int]]:
    """Factors that stay side by side, in runs as long as possible."""
    follower = dict(itertools.pairwise(after))
    runs: list[list[int]] = []
    for factor in before:
        if runs and follower.get(runs[-1][-1]) == factor:
            runs[-1].append(factor)
        else:
            runs.append([factor])
    return runs
