"""What rows of data tell of a layer: their mean and squares, and what its outputs lack.

Rows come as `(groups, positions, columns)`, sample by sample. Knows matrices alone.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from edgeq.export.round.exact import Matrix, add_gram, mirrored, product


class Moments:
    """Mean and squares of rows `(groups, positions, columns)`, added up sample by sample.

    Every other sample goes to the other half: how columns go together is believed as far as both
    halves agree on it.
    """

    def __init__(self) -> None:
        self._origin: Matrix = np.zeros(0)
        self._halves = (_Sums(), _Sums())
        self._added = 0

    def add(self, rows: Matrix) -> None:
        """Takes rows of a sample into account; many at once, as the squares are large."""
        half = self._halves[self._added % 2]
        self._added += 1
        half.waiting.append(rows)
        if sum(r.shape[1] for r in half.waiting) >= rows.shape[-1]:
            self._flush(half)

    def flush(self) -> None:
        """Adds up the rows that wait."""
        for half in self._halves:
            self._flush(half)

    def _flush(self, half: _Sums) -> None:
        """Adds up rows around the mean of the first ones: little cancels so."""
        if not half.waiting:
            return
        rows = np.concatenate(half.waiting, axis=1)
        half.waiting.clear()
        if not self._origin.size:
            self._origin = rows.mean(axis=1)
        half.add(rows - self._origin[:, None])

    @property
    def _seen(self) -> list[_Sums]:
        return [half for half in self._halves if half.count]

    @property
    def _offset(self) -> Matrix:
        """How far the mean is from the origin, `(groups, columns)`."""
        total: Matrix = functools.reduce(np.add, (half.total for half in self._seen))
        return total / sum(half.count for half in self._seen)

    @property
    def mean(self) -> Matrix:
        """`(groups, columns)`."""
        mean: Matrix = self._origin + self._offset
        return mean

    def squares(self, centred: bool) -> Matrix:
        """Mean of `x @ x.T`, `(groups, columns, columns)`; around the mean if `centred`."""
        seen = self._seen
        count = sum(half.count for half in seen)
        squares = functools.reduce(np.add, (half.squares for half in seen))
        found = _covariance(squares, count, self._offset)
        if len(seen) == 1:
            _shrink(found, _share_by_rows(found, count))
        else:
            _shrink(found, _share_agreed(found, *(half.covariance for half in seen)))
        if not centred:
            mean = self.mean.astype(np.float32)
            found += mean[:, :, None] * mean[:, None]
        return found


@dataclass
class _Sums:
    """Sums over rows.

    Attributes:
        count: Rows.
        total: Their sum, `(groups, columns)`.
        squares: Lower triangles of the sum of their squares, `(groups, columns, columns)`.
        waiting: Rows that are to be added.
    """

    count: int = 0
    total: Matrix = field(default_factory=lambda: np.zeros(0))
    squares: Matrix = field(default_factory=lambda: np.zeros(0))
    waiting: list[Matrix] = field(default_factory=list)

    def add(self, rows: Matrix) -> None:
        if not self.count:
            groups, _, columns = rows.shape
            self.total = np.zeros((groups, columns))
            self.squares = np.zeros((groups, columns, columns), np.float32)
        self.total += rows.sum(axis=1)
        add_gram(self.squares, rows)
        self.count += rows.shape[1]

    @property
    def covariance(self) -> Matrix:
        """`(groups, columns, columns)`."""
        return _covariance(self.squares, self.count, self.total / self.count)


@dataclass(frozen=True)
class Missing:
    """What `weight @ x` is short of.

    Attributes:
        mean: On average, `(groups, rows)`.
        products: Mean of it times the middle of what `x` is and shall be, `(groups, rows,
            columns)`. With what it is, noise would make weights smaller, and the layers behind
            get less signal for noise that averages out there; with what it shall be, weights
            would grow where values are cut off. The middle keeps the power of the outputs.
    """

    mean: Matrix
    products: Matrix

    @classmethod
    def of(cls, weight: Matrix, rows: Matrix, wanted: Matrix, centred: bool) -> Missing:
        """What a weight `(groups, rows, columns)` is short of on rows.

        Args:
            weight: The weight.
            rows: What it is multiplied with.
            wanted: What it shall put out the products with.
            centred: Whether products are those around the means.
        """
        short = product(weight, (wanted - rows).transpose(0, 2, 1))
        middle = (rows + wanted) / 2
        mean, read = short.mean(axis=-1), middle.mean(axis=1)
        products = product(short, middle - read[:, None]) / np.float32(rows.shape[1])
        return cls(mean, products if centred else products + mean[:, :, None] * read[:, None])


def _covariance(squares: Matrix, count: int, offset: Matrix) -> Matrix:
    """Mean squares around the mean, from a lower triangle of sums."""
    found, around = mirrored(squares), offset.astype(np.float32)
    found /= np.float32(count)
    found -= around[:, :, None] * around[:, None]
    return found


def _shrink(covariance: Matrix, share: Matrix) -> None:
    """Leaves of how columns go together the share of each group that is believed, in place."""
    own = np.einsum("gii->gi", covariance).copy()
    covariance *= share[:, None, None].astype(np.float32)
    np.einsum("gii->gi", covariance)[:] = own


def _share_agreed(covariance: Matrix, one: Matrix, other: Matrix) -> Matrix:
    """What of how columns go together is more than chance, as two halves of the samples tell.

    Rows of one sample are alike, so that their number says little. Of two halves the product is
    what both have, and the square of the whole is that and the chance in it: the share is the one
    with which the mean square of what is wrong is least.

    Args:
        covariance: Of all samples, `(groups, columns, columns)`.
        one: Of one half.
        other: Of the other half.

    Returns:
        For each group, 0 to 1.
    """
    return _ratio(_between(one, other), _between(covariance, covariance))


def _share_by_rows(covariance: Matrix, count: int) -> Matrix:
    """The same by the number of rows alone, where they are of one sample.

    Source:
        Schaefer and Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation",
        2005, target D, with the variances of normal data.
    """
    own = np.einsum("gii->gi", covariance)
    between = _between(covariance, covariance)
    expected = np.square(own.sum(axis=1), dtype=np.float64) - np.square(own).sum(axis=1) + between
    return 1.0 - _ratio(expected, count * between)


def _between(one: Matrix, other: Matrix) -> Matrix:
    """Sum of the products of what two matrices have off the diagonal, for each group."""
    whole: Matrix = np.einsum("gij,gij->g", one, other, dtype=np.float64)
    own: Matrix = np.einsum("gii,gii->g", one, other, dtype=np.float64)
    return whole - own


def _ratio(part: Matrix, whole: Matrix) -> Matrix:
    """From 0 to 1; rounding leaves less than nothing between columns of none."""
    found: Matrix = np.clip(part / np.maximum(whole, np.finfo(np.float32).tiny), 0.0, 1.0)
    return found
