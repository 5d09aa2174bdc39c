"""What rows of data tell of a layer: their mean and squares, and what its outputs lack.

Rows come as `(groups, positions, columns)`, sample by sample. Knows matrices alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeq.export.round.exact import Matrix, add_gram, mirrored, product


class Moments:
    """Mean and squares of rows `(groups, positions, columns)`, added up sample by sample."""

    def __init__(self) -> None:
        self._count = 0
        self._waiting: list[Matrix] = []
        self._origin: Matrix = np.zeros(0)
        self._sum: Matrix = np.zeros(0)
        self._squares: Matrix = np.zeros(0)

    def add(self, rows: Matrix) -> None:
        """Takes rows into account; many at once, as the squares are large."""
        self._waiting.append(rows)
        if sum(r.shape[1] for r in self._waiting) >= rows.shape[-1]:
            self.flush()

    def flush(self) -> None:
        """Adds up the rows that wait; around the mean of the first ones: little cancels so."""
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting, axis=1)
        self._waiting.clear()
        if not self._count:
            self._origin = rows.mean(axis=1)
            self._sum = np.zeros(self._origin.shape)
            self._squares = np.zeros((*self._origin.shape, rows.shape[-1]), np.float32)
        rows -= self._origin[:, None]
        self._sum += rows.sum(axis=1)
        add_gram(self._squares, rows)
        self._count += rows.shape[1]

    @property
    def mean(self) -> Matrix:
        """`(groups, columns)`."""
        mean: Matrix = self._origin + self._sum / self._count
        return mean

    def squares(self, centred: bool) -> Matrix:
        """Mean of `x @ x.T`, `(groups, columns, columns)`; around the mean if `centred`."""
        offset = (self._sum / self._count).astype(np.float32)
        found = mirrored(self._squares)
        found /= np.float32(self._count)
        found -= offset[:, :, None] * offset[:, None]
        _shrink(found, self._count)
        if not centred:
            mean = self.mean.astype(np.float32)
            found += mean[:, :, None] * mean[:, None]
        return found


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


def _shrink(covariance: Matrix, count: int) -> None:
    """Draws what few rows say of how columns go together towards nothing, in place.

    Source:
        Schaefer and Strimmer, "A Shrinkage Approach to Large-Scale Covariance Matrix Estimation",
        2005, target D, with the variances of normal data.
    """
    own = np.einsum("gii->gi", covariance).copy()
    all_squares = np.einsum("gij,gij->g", covariance, covariance, dtype=np.float64)
    between = all_squares - np.square(own, dtype=np.float64).sum(axis=1)
    expected = np.square(own.sum(axis=1), dtype=np.float64) - np.square(own).sum(axis=1) + between
    share = expected / np.maximum(count * between, np.finfo(np.float32).tiny)
    share = share.clip(0.0, 1.0)  # rounding leaves less than nothing between columns of none
    covariance *= (1.0 - share)[:, None, None].astype(np.float32)
    np.einsum("gii->gi", covariance)[:] = own
