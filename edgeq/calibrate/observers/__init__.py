"""Observers: mergeable values that turn what a tensor holds into the range its integers cover.

An observer is a frozen value with three methods:

    observe(values) -> observer     with one more sample taken into account
    merge(other)    -> observer     what one observer would be that had seen what both have seen
    range()         -> (low, high)  or None as long as nothing has been seen

Merging is associative; for all but `MovingAverage` it is commutative too, and exact: however the
data is split, ordered and merged, the result is bit for bit that of one pass. Your own observer is
any class with these methods, for example one that ignores each sample's smallest and largest:

>>> from dataclasses import dataclass
>>> import numpy as np
>>> @dataclass(frozen=True)
... class Trimmed:
...     low: float | None = None
...     high: float | None = None
...
...     def observe(self, values):
...         inner = np.sort(values, axis=None)[1:-1]
...         return self.merge(Trimmed(float(inner[0]), float(inner[-1])))
...
...     def merge(self, other):
...         if self.low is None or other.low is None:
...             return other if self.low is None else self
...         return Trimmed(min(self.low, other.low), max(self.high, other.high))
...
...     def range(self):
...         return None if self.low is None else (self.low, self.high)
>>> Trimmed().observe(np.asarray([-9.0, -1.0, 0.0, 2.0, 50.0])).range()
(-1.0, 2.0)

One range holds for a whole tensor: LiteRT's kernels take activations per tensor only. Weights are
per channel, and their scales come from the constants themselves, so no observer sees them.

Observers know nothing of models, data sets or quantization parameters.
"""

from edgeq.calibrate.observers.extremes import Fixed, MinMax, MovingAverage
from edgeq.calibrate.observers.histogram import Histogram
from edgeq.calibrate.observers.named import NAMED, as_observer
from edgeq.calibrate.observers.observer import Observer, Range, Values, extremes_suffice
from edgeq.calibrate.observers.percentile import Percentile
from edgeq.calibrate.observers.smallest_loss import MSE, Entropy
from edgeq.calibrate.observers.wrappers import AtLeast, Symmetric

__all__ = [
    "BUILT_IN",
    "MSE",
    "NAMED",
    "AtLeast",
    "Entropy",
    "Fixed",
    "Histogram",
    "MinMax",
    "MovingAverage",
    "Observer",
    "Percentile",
    "Range",
    "Symmetric",
    "Values",
    "as_observer",
    "extremes_suffice",
]

BUILT_IN = (MinMax, Fixed, MovingAverage, Histogram, Percentile, MSE, Entropy, Symmetric, AtLeast)
"""Every class that a calibration file may name."""
