"""Ranges of tensors as far as they matter: without values that no reader tells from their ends.

A softmax gives the same weights whether a masked score is -infinity or merely far below the others,
and a maximum does not see what is below its other operand. Such limits go from readers to what they
read, through sums and ops that only move values, and masks need no integers of their own. What is
infinite and has no such limit cannot be an integer. A pure decision.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edgeq.calibrate.calibration import Beyond, Calibration
from edgeq.calibrate.observers import MinMax
from edgeq.errors import ModelError
from edgeq.export.plan.margin import with_margin
from edgeq.export.plan.reach import (
    STEPS,
    UNLIMITED,
    FlatEnds,
    Range,
    Reach,
    beyond_of,
    ends_of,
    finite_ends_of,
    is_drowned,
    negligible,
    width,
    within,
)
from edgeq.flatbuffer import Operator, Tensor
from edgeq.model import LiteModel
from edgeq.ops import MOVED, OPS, Holds, ScaleRule, holds
from edgeq.qtypes import DType, covering, quantize

SPARE = 8
"""An operand's range may be so many times as wide as measured, where others share its scale."""

TINY = 1e-30
"""Least width of a range, to divide by."""

MASKING = 64.0
"""A factor larger than that makes a mask, and is limited itself instead of what it multiplies."""

SATURATED = {"LOGISTIC": 12.0, "TANH": 6.0}
"""Beyond it on both sides, the op's result is as good as constant."""

LOG_SOFTMAX_SPAN = 16.0
"""Range that an 8-bit LOG_SOFTMAX covers."""


class Values:
    """Ranges of the tensors of one calibrated model.

    Args:
        model: The float model.
        calibration: What was measured of it.
    """

    def __init__(self, model: LiteModel, calibration: Calibration) -> None:
        self._model = model
        self._graph = model.graph
        self._calibration = calibration
        self._reaches: dict[int, Reach] = {}
        self._beyond: dict[int, Beyond] = {}
        self._finites: dict[tuple[int, DType], Range | None] = {}
        self._flat_ends = FlatEnds(self._graph, self._seen)
        self._follow_readers()

    @property
    def samples(self) -> int:
        """Number of samples that the ranges are of."""
        return self._calibration.samples

    def range(self, tensor: int, dtype: DType = DType.INT8, from_float: bool = False) -> Range:
        """Range that the integers of a computed tensor must cover.

        Args:
            tensor: Its index.
            dtype: Their type.
            from_float: Whether they are made of a float op's results, of which its kernel in
                integers dictates nothing.

        Raises:
            ModelError: The calibration does not tell.
        """
        if from_float and tensor in self._calibration.ranges:
            found = self._calibration.ranges[tensor]
        elif self._finite(tensor, dtype) is not None:
            found = within(self._whole(tensor, dtype), self.reach(tensor))
        else:
            raise ModelError(
                f"tensor {self._graph.tensors[tensor].name!r} was not calibrated; "
                "calibrate again with this version"
            )
        low, high = self._widened(tensor, found)
        if dtype.bits != 8 or tensor in self._graph.inputs:
            return low, high
        flat = self._flat_ends.of(tensor)
        return max(low, min(flat.low, 0.0)), min(high, max(flat.high, 0.0))

    def _seen(self, tensor: int) -> Range | None:
        """Range of a computed tensor, flat ends included; None where nothing is known of it."""
        if self._finite(tensor) is None:
            return None
        return self._widened(tensor, within(self._whole(tensor, DType.INT8), self.reach(tensor)))

    def _widened(self, tensor: int, found: Range) -> Range:
        """A range with a margin, within the reach, where few numbers were measured."""
        if not isinstance(self._calibration.observers.get(tensor), MinMax):
            return found
        values, reach = math.prod(self._graph.tensors[tensor].shape), self.reach(tensor)
        low, high = with_margin(found, self._calibration.samples, values)
        return max(low, min(found[0], reach.low)), min(high, max(found[1], reach.high))

    def constant_range(self, op: Operator, slot: int) -> Range | None:
        """The same of a constant that an op reads; None where no integers hold it."""
        data = self._graph.tensors[op.inputs[slot]].data
        assert data is not None
        found = within(ends_of(data), self._operand(op, slot))
        return found if all(map(math.isfinite, found)) else None

    def obstacle(self, op: Operator) -> str:
        """Why an op cannot compute in integers; empty if it can."""
        for slot, tensor in self._real_operands(op):
            if tensor.is_constant:
                word = self._unbounded_constant(op, slot)
            else:
                word = self._unbounded(tensor.index)
            if word:
                return f"it reads {word}, which no integer holds"
        written = [t for t in op.outputs if self._graph.tensors[t].dtype == "float32"]
        words = [word for t in written if (word := self._unbounded(t))]
        if words:
            return f"it gives {words[0]}, which no integer holds"
        row = OPS.get(op.name)
        if row is None:
            return ""
        if row.never_zero is not None and self._may_round_to_zero(op, row.never_zero):
            return "its kernel ends the run where the divisor rounds to 0, which no data rules out"
        if row.holds is Holds.CHOSEN and is_drowned(self._widths(op)):
            return "a constant is so large that its scale leaves no integers to the other values"
        if row.most_ratio and self._ratio(op) * SPARE > row.most_ratio:
            return (
                f"its kernel ends the process where an operand's scale is {row.most_ratio:.0f} "
                "times that of the result"
            )
        return ""

    def _ratio(self, op: Operator) -> float:
        """The widest operand's range over that of the result."""
        if self._finite(op.outputs[0]) is None:
            return 0.0
        made_width = max(width(self.range(op.outputs[0])), TINY)
        return max((found for _, found in self._widths(op)), default=0.0) / made_width

    def _widths(self, op: Operator) -> list[tuple[bool, float]]:
        """`(is constant, width)` of each range that an op is known to read."""
        read = ((t.is_constant, self._read(op, s, t)) for s, t in self._real_operands(op))
        return [(is_constant, width(found)) for is_constant, found in read if found is not None]

    def _read(self, op: Operator, slot: int, tensor: Tensor) -> Range | None:
        """The range of an operand's integers, where it is known."""
        if tensor.is_constant:
            return self.constant_range(op, slot)
        return self.range(tensor.index) if self._finite(tensor.index) is not None else None

    def _may_round_to_zero(self, op: Operator, slot: int) -> bool:
        """Whether an operand's integers may be the zero point, in data not seen yet as well."""
        data = self._graph.tensors[op.inputs[slot]].data
        if data is None:
            return True
        qparams = covering(self.constant_range(op, slot) or (0.0, 0.0), DType.INT8)
        return bool((quantize(data, qparams) == qparams.zero_point[0]).any())

    def _unbounded(self, tensor: int) -> str:
        """Values of a tensor that no integer can stand for, in words."""
        beyond, reach = self._held_beyond(tensor), self.reach(tensor)
        if beyond.nan and not self._is_left_out(tensor):
            return "NaN"
        if beyond.low and reach.low == -math.inf:
            return "values down to -infinity"
        return "values up to infinity" if beyond.high and reach.high == math.inf else ""

    def _unbounded_constant(self, op: Operator, slot: int) -> str:
        data, row = self._graph.tensors[op.inputs[slot]].data, OPS.get(op.name)
        assert data is not None
        if row is not None and slot in (row.weight_slot, row.bias_slot):
            return ""
        found = self.constant_range(op, slot)
        return "" if found is not None or not data.size else "an infinite constant"

    def _is_left_out(self, tensor: int) -> bool:
        """Whether all that reads a tensor are choices that leave its NaN out."""
        uses = self._graph.uses.get(tensor, [])
        readers = [op for op, _ in uses]
        chosen = all(
            holds(op.name) is Holds.CHOSEN and not self._held_beyond(op.outputs[0]).nan
            for op in readers
        )
        return bool(uses) and chosen and tensor not in self._graph.outputs

    def _whole(self, tensor: int, dtype: DType) -> Range:
        """Lowest and highest value; infinite where one stands for infinity, or nothing is known."""
        low, high = self._finite(tensor, dtype) or (-math.inf, math.inf)
        beyond = self._held_beyond(tensor)
        return -math.inf if beyond.low else low, math.inf if beyond.high else high

    def _finite(self, tensor: int, dtype: DType = DType.INT8) -> Range | None:
        """Lowest and highest finite value: measured, or what the producer's row says."""
        if (tensor, dtype) not in self._finites:
            self._finites[tensor, dtype] = self._found_finite(tensor, dtype)
        return self._finites[tensor, dtype]

    def _found_finite(self, tensor: int, dtype: DType) -> Range | None:
        op = self._graph.producers.get(tensor)
        row = OPS.get(op.name) if op else None
        fixed = row.fixed_for(dtype) if row else None
        if fixed is not None:
            return fixed.range()
        if tensor in self._calibration.ranges:
            return self._calibration.ranges[tensor]
        if tensor in self._calibration.beyond:  # no value was ever finite
            return 0.0, 0.0
        if op is None or row is None:
            return None
        if row.rule is not ScaleRule.SAME:
            return None
        found = [self._finite(t.index) for _, t in self._real_operands(op) if not t.is_constant]
        if None in found:
            return None
        constants = [s for s, t in self._real_operands(op) if t.is_constant]
        found += [known for s in constants if (known := self.constant_range(op, s)) is not None]
        ends = [ends for ends in found if ends is not None]
        return min((e[0] for e in ends), default=0.0), max((e[1] for e in ends), default=0.0)

    def _real_operands(self, op: Operator) -> Iterator[tuple[int, Tensor]]:
        """`(slot, tensor)` of what an op reads of real numbers."""
        return ((s, t) for s, t in self._graph.operands(op) if t.dtype == "float32")

    def _held_beyond(self, tensor: int) -> Beyond:
        """Values of a computed tensor beside finite ones: measured, or those of its sources."""
        if tensor not in self._beyond:
            self._beyond[tensor] = self._found_beyond(tensor)
        return self._beyond[tensor]

    def _found_beyond(self, tensor: int) -> Beyond:
        op = self._graph.producers.get(tensor)
        row = OPS.get(op.name) if op else None
        if row is not None and row.rule is ScaleRule.FIXED:
            return Beyond()
        is_moved = row is not None and row.rule is ScaleRule.SAME
        if op is None or tensor in self._calibration.ranges or not is_moved:
            return self._calibration.beyond.get(tensor, Beyond())
        sources = [
            beyond_of(operand.data)
            if operand.data is not None
            else self._held_beyond(operand.index)
            for _, operand in self._real_operands(op)
        ]
        found = functools.reduce(Beyond.merge, sources, Beyond())
        if holds(op.name) is Holds.LARGEST:
            return replace(found, low=all(s.low for s in sources) and len(sources) > 1)
        if holds(op.name) is Holds.SMALLEST:
            return replace(found, high=all(s.high for s in sources) and len(sources) > 1)
        return found

    def reach(self, tensor: int) -> Reach:
        """Range that the readers of a computed tensor can tell apart."""
        return self._reaches.get(tensor, UNLIMITED)

    def _follow_readers(self) -> None:
        """Works out the reach of every computed tensor, the last first."""
        computed = [t for op in self._graph.operators[::-1] for t in op.outputs]
        for tensor in (*computed, *self._graph.inputs):
            uses = self._graph.uses.get(tensor, [])
            is_real = self._graph.tensors[tensor].dtype == "float32"
            if is_real and uses and tensor not in self._graph.outputs:
                read = (self._operand(op, slot) for op, slot in uses)
                self._reaches[tensor] = functools.reduce(Reach.union, read)

    def _operand(self, op: Operator, slot: int) -> Reach:
        """Range that one op can tell apart of one operand."""
        if op.name in ("SOFTMAX", "LOG_SOFTMAX"):
            return self._scores(op)
        if op.name in SATURATED:
            return Reach(-SATURATED[op.name], SATURATED[op.name])
        if op.name == "EXP":
            return self._powers(op)
        if holds(op.name) in (Holds.LARGEST, Holds.SMALLEST):
            return self._extreme(op, slot)
        if holds(op.name) in MOVED:
            return self._moved(op)
        if op.name in ("ADD", "SUB", "MUL") and len(op.inputs) == 2:
            return self._arithmetic(op, slot)
        made = [self._graph.tensors[index].dtype for index in op.outputs]
        if made == ["bool"] and len(op.inputs) == 2:
            return self._compared(op, slot)
        return UNLIMITED

    def _scores(self, op: Operator) -> Reach:
        """Of what a softmax reads, all that changes an 8-bit weight in any row."""
        source = op.inputs[0]
        top, shape = self._calibration.tops.get(source), self._graph.tensors[source].shape
        if top is None:
            return UNLIMITED
        beta = float(getattr(op.options, "beta", 0.0)) or 1.0
        margin = negligible(shape) if op.name == "SOFTMAX" else LOG_SOFTMAX_SPAN
        return Reach(top - margin / beta)

    def _powers(self, op: Operator) -> Reach:
        """Of what EXP reads, all that is not as good as 0 beside its largest result."""
        (output,) = op.outputs
        largest = self._calibration.ranges.get(output, (0.0, 0.0))[1]
        shape = self._graph.tensors[output].shape
        return Reach(math.log(largest) - negligible(shape)) if largest > 0 else UNLIMITED

    def _extreme(self, op: Operator, slot: int) -> Reach:
        """A maximum (minimum) does not see what is below (above) all that it may give."""
        behind = self.reach(op.outputs[0])
        others = [i for i, _ in self._real_operands(op) if i != slot]
        if others:
            low, high = self._operand_range(op, others[0])
        else:
            low, high = self._finite_operand(op, slot)
        if holds(op.name) is Holds.LARGEST:
            return Reach(max(behind.low, low), behind.high)
        return Reach(behind.low, min(behind.high, high))

    def _moved(self, op: Operator) -> Reach:
        """Reach of values that are only moved; a choice may have left the rest out."""
        found = [self.reach(t) for t in op.outputs]
        reach = functools.reduce(Reach.union, found)
        output = op.outputs[0]
        if holds(op.name) is not Holds.CHOSEN or output not in self._calibration.ranges:
            return reach
        low, high = self._calibration.ranges[output]
        beyond = self._held_beyond(output)
        return Reach(
            max(reach.low, -math.inf if beyond.low else low),
            min(reach.high, math.inf if beyond.high else high),
        )

    def _arithmetic(self, op: Operator, slot: int) -> Reach:
        behind = self.reach(op.outputs[0])
        if op.fused_activation != "NONE" or behind == UNLIMITED:
            return UNLIMITED
        other = self._operand_range(op, 1 - slot)
        if op.name == "ADD":
            return behind.minus(other)
        if op.name == "SUB" and slot == 0:
            return behind.minus((-other[1], -other[0]))
        if op.name == "SUB":  # of y where it is of x - y
            return Reach(other[0] - behind.high, other[1] - behind.low)
        data = self._graph.tensors[op.inputs[1 - slot]].data
        if data is not None:
            return behind.over(data) if np.abs(data).max(initial=0) <= MASKING else UNLIMITED
        is_constant = self._graph.tensors[op.inputs[slot]].is_constant
        return self._factor(behind, other) if is_constant else UNLIMITED

    def _factor(self, behind: Reach, other: Range) -> Reach:
        """Of a constant that an operand in a range is multiplied by: its integers are 0 or a step
        at least."""
        low, high = min(other[0], 0.0), max(other[1], 0.0)
        step = (high - low) / STEPS
        if not (step > 0 and math.isfinite(step)) or low < 0 < high:
            return UNLIMITED
        limits = behind.over(np.asarray(step if high > 0 else -step))
        return Reach(min(limits.low, 0.0), max(limits.high, 0.0))

    def _compared(self, op: Operator, slot: int) -> Reach:
        """A constant well beyond all that it is compared with tells nothing more than infinity."""
        low, high = self._operand_range(op, 1 - slot)
        beyond = max(high - low, abs(low), TINY)
        is_constant = self._graph.tensors[op.inputs[slot]].is_constant
        is_known = is_constant and math.isfinite(low + high)
        return Reach(low - beyond, high + beyond) if is_known else UNLIMITED

    def _operand_range(self, op: Operator, slot: int) -> Range:
        """Lowest and highest value of an operand, whatever matters of it."""
        tensor = self._graph.tensors[op.inputs[slot]]
        return (
            self._whole(tensor.index, DType.INT8) if tensor.data is None else ends_of(tensor.data)
        )

    def _finite_operand(self, op: Operator, slot: int) -> Range:
        """The same of the finite values alone, padding aside: every window holds one of them."""
        tensor = self._graph.tensors[op.inputs[slot]]
        while (producer := self._graph.producers.get(tensor.index)) is not None and (
            producer.name in ("PAD", "PADV2")
        ):
            tensor = self._graph.tensors[producer.inputs[0]]
        if tensor.data is not None:
            return finite_ends_of(tensor.data)
        return self._finite(tensor.index) or (-math.inf, math.inf)
