"""`PlanCut`: the graph whose minimum cuts are plans, from the fastest to the most faithful.

Every op has an estimated time and a measured loss in each form, and every boundary between float
and integers has a price. Knows estimates alone; nothing is built.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from edgeq.export.export_options import ExportOptions
from edgeq.export.noise.moved import sources
from edgeq.export.noise.sensitivity import Noise
from edgeq.export.plan.choices import Choice, Choices, decided_together, weight_slot, weight_slots
from edgeq.export.plan.min_runtime import form_runtime
from edgeq.export.rewrite.written_out.whole_ops import in_float, whole_ops
from edgeq.export.search.candidates import Candidate
from edgeq.export.search.costs import boundaries_ns, boundary_ns, estimate_ns
from edgeq.export.search.min_cut import Network, Node
from edgeq.export.search.op_work import weights_read
from edgeq.flatbuffer import Operator
from edgeq.model import LiteModel
from edgeq.ops import is_table, storable
from edgeq.qtypes import DType
from edgeq.recipe import Mode
from edgeq.report import SIZE_WORTH

PLAIN = (Mode.STATIC_INT8, Mode.DYNAMIC_INT8, Mode.WEIGHT_INT8)
"""Plans in one mode throughout: always tried, and what the estimates are corrected by."""

TOO_COARSE = "with weights of fewer bits the outputs miss the goal"
"""Why weights stay in a floating type."""

DYNAMIC_NOISE = 0.5
"""Noise of an activation that is rounded at each run, over that of one with a fixed scale; as long
as no plan tells."""

MOST_DYNAMIC_NOISE = 4.0
"""The most that the share is corrected to."""

MOST_COST = 4.0
"""No part of a plan counts for more than this many float inferences: staying float costs one."""

Form: TypeAlias = tuple[Mode, float, float]
"""`(mode, nanoseconds, noise)` of an op."""


SILENCE = Noise({}, {})


class PlanCut:
    """The graph whose minimum cuts are plans.

    Args:
        model: The float model.
        choices: What becomes of each op, with `Mode.AUTO` where that is open.
        static: The same with all in static int8 that can be.
        outside: Ops that the delegate does not take, by the type that it would compute in.
        options: What was asked for.
        noise: What rounding loses; without it, times and sizes are right.

    Attributes:
        static: As given.
    """

    def __init__(
        self,
        model: LiteModel,
        choices: Choices,
        static: Choices,
        outside: Mapping[str, frozenset[int]],
        options: ExportOptions,
        noise: Noise = SILENCE,
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._choices = choices
        self.static = static
        self._outside = outside
        self._noise = noise
        self._options = options
        self._costs = options.costs
        self._oldest = options.oldest
        self._scales: dict[str, float] = {}
        self._dynamic_noise = DYNAMIC_NOISE
        self._total = weights_read(self._graph)
        self._in_float = in_float(self._graph, choices)
        self._whole = whole_ops(self._graph)
        self._fixed_ns = sum(map(self._integer_time, self._graph.operators))
        self._float_ns = self._fixed_ns + sum(
            self._time(self._graph.operators[index], "float32") for index in choices
        )
        self._together = decided_together(self._graph)
        self._sources = sources(self._graph, noise.tensors)
        self._touching = self._ops_touching()
        self._weights = {
            op.index: sum(math.prod(self._graph.tensors[op.inputs[slot]].shape) for slot in slots)
            / len(self._together[op.index])
            for op in self._graph.operators
            if (slots := weight_slots(self._graph, op))
        }
        self._others = {index: self._others_of(index) for index in choices}
        total = sum(self._weights.values())
        self._byte_ns = SIZE_WORTH * self._float_ns / (4 * total) if total else 0.0

    def with_noise(self, noise: Noise) -> PlanCut:
        """The same graph with other noise."""
        return PlanCut(self._model, self._choices, self.static, self._outside, self._options, noise)

    def candidate(self, price: float) -> Candidate:
        """The best plan at a price of noise."""
        unit = price * self._float_ns
        others = self._cheapest(unit)
        integers = self._network(unit, others).source_side()
        chosen = {i: self._choice(i, i in integers, others[i]) for i in self._choices}
        return replace(self._offer(chosen), price=price)

    def correct_noise(self, plain: Sequence[Candidate]) -> None:
        """Has the noise of weights and of dynamic range agree with the plans in them throughout.

        Weights that miss the goal by themselves lose more together than one by one: small changes
        grow from layer to layer.
        The scales of dynamic range are found for each row at each run, so that it may lose much
        less than a fixed scale does.
        """
        stored = _tried(plain).get(Mode.WEIGHT_INT8)
        if stored is not None and stored.sqnr_db < self._options.goal_db:
            self._raise_weights(stored)
        dynamic = _tried(plain).get(Mode.DYNAMIC_INT8)
        if dynamic is not None:
            self._correct_dynamic(dynamic)
        self._others = {index: self._others_of(index) for index in self._choices}

    def _raise_weights(self, stored: Candidate) -> None:
        noises = self._noise.weights
        known = sum(noises.get(i, 0.0) for i, c in stored.choices.items() if c.mode.is_weight_only)
        share = 10 ** (-stored.sqnr_db / 10) / known if known else 1.0
        if share > 1:
            raised = {index: share * noise for index, noise in noises.items()}
            self._noise = replace(self._noise, weights=raised)

    def _correct_dynamic(self, dynamic: Candidate) -> None:
        noise = 10 ** (-dynamic.sqnr_db / 10)
        weights, read = 0.0, 0.0
        for index, choice in dynamic.choices.items():
            op = self._graph.operators[index]
            weights += self._noise.weights.get(index, 0.0)
            read += self._read_noise(op) if choice.mode is Mode.DYNAMIC_INT8 else 0.0
        if read:
            self._dynamic_noise = min(max((noise - weights) / read, 0.0), MOST_DYNAMIC_NOISE)

    def correct_times(self, plain: Sequence[Candidate]) -> None:
        """Has the estimates agree with the measured times of plans in one mode throughout."""
        measured = _tried(plain)
        unit = measured[Mode.WEIGHT_INT8].time if Mode.WEIGHT_INT8 in measured else 1.0
        for mode, form in ((Mode.STATIC_INT8, "int8"), (Mode.DYNAMIC_INT8, "dynamic")):
            if mode not in measured:
                continue
            chosen = measured[mode].choices
            ops = [self._graph.operators[i] for i, c in chosen.items() if c.mode is mode]
            own = sum(self._time(op, form) for op in ops)
            missing = (measured[mode].time / unit - self._predicted(chosen)[0]) * self._float_ns
            if own:
                self._scales[form] = min(max(1.0 + missing / own, 0.5), 2.0)
        self._others = {index: self._others_of(index) for index in self._choices}

    def plain(self, mode: Mode) -> Candidate:
        """Every op in one mode as far as it has that form, or else in its smallest."""
        return self._offer(
            {i: self._choice(i, mode.is_static, self._form(i, mode)) for i in self._choices}
        )

    def wide(self, mode: Mode) -> Candidate:
        """Every op in float, and the weights that the search decides about in a floating type."""
        smallest = self.plain(Mode.WEIGHT_INT8).choices
        free = {i for i, choice in self._choices.items() if choice.mode is Mode.AUTO}
        chosen = {
            i: replace(c, mode=mode, reason=TOO_COARSE)
            if i in free and c.mode is Mode.WEIGHT_INT8
            else c
            for i, c in smallest.items()
        }
        return self._offer(chosen)

    def _form(self, index: int, mode: Mode) -> Form:
        """An op in a mode with float activations, or else in its smallest form."""
        forms = self._others[index]
        return next((form for form in forms if form[0] is mode), forms[-1])

    def _offer(self, chosen: Choices) -> Candidate:
        time, noise, static = self._predicted(chosen)
        sqnr_db = -10 * math.log10(max(noise, 1e-12))
        known = None if self._noise is SILENCE else static
        return Candidate(
            chosen, time, self._size(chosen), sqnr_db, estimate=time, static_noise=known
        )

    def _size(self, chosen: Choices) -> float:
        """Bytes of weights over the float model's."""
        total = sum(self._weights.values())
        stored = sum(
            count * _bytes_each(chosen[index].mode)
            for index, count in self._weights.items()
            if index in chosen
        )
        return stored / (4 * total) if total else 1.0

    def _price(self, index: int, unit: float, form: Form) -> float:
        """Nanoseconds that a form costs, its noise and its size included."""
        mode, time, noise = form
        size = self._weights.get(index, 0) * _bytes_each(mode)
        return time + unit * noise + self._byte_ns * size

    def _time(self, op: Operator, form: str) -> float:
        place = "int8" if form == "int8" else "float32"
        one = self._in_float.get(op.index, op) if form == "float32" else op
        if one is None:  # another op computes it as well
            return 0.0
        delegated = op.index not in self._outside[place]
        estimated = estimate_ns(self._costs, self._graph, one, form, delegated, self._total)
        return estimated * self._scales.get(form, 1.0)

    def _integer_time(self, op: Operator) -> float:
        """Nanoseconds of an op of integers, as indices are, which is the same in every plan.

        Most stand in front of the delegate's ops and do not interrupt it.
        """
        if op.index in self._choices:
            return 0.0
        return max(0.0, self._time(op, "float32") - self._costs.leave_ns)

    def _cheapest(self, unit: float) -> dict[int, Form]:
        """Each op's form with float activations that is best for all that read its weight."""
        found: dict[int, Form] = {}
        for index in self._choices:
            if index not in found:
                together = self._together[index]
                places = range(len(self._others[index]))
                price = functools.partial(self._price_of_all, together, unit)
                place = min(places, key=price)
                found.update({i: self._others[i][place] for i in together})
        return found

    def _price_of_all(self, together: Iterable[int], unit: float, place: int) -> float:
        return sum(self._price(i, unit, self._others[i][place]) for i in together)

    def _others_of(self, index: int) -> list[Form]:
        """An op in each form with float activations; the last one is the smallest."""
        op = self._graph.operators[index]
        time = self._time(op, "float32")
        slot = weight_slot(self._graph, op)
        if slot is None or index in self._in_float:
            return [(Mode.FLOAT, time, 0.0)]
        noise = self._noise.weights.get(index, 0.0)
        found = [(Mode.FLOAT, time, 0.0)]
        if self._is_readable(op, Mode.WEIGHT_INT8):
            found.append((Mode.WEIGHT_INT8, time, noise))
        weight = storable(op.name)
        is_dynamic = weight is not None and DType.INT8 in weight.dynamic_types
        is_dynamic = is_dynamic and not is_table(op.name)
        if is_dynamic and self._is_readable(op, Mode.DYNAMIC_INT8):
            rounded = self._read_noise(op)
            dynamic = noise + self._dynamic_noise * rounded
            found.append((Mode.DYNAMIC_INT8, self._time(op, "dynamic"), dynamic))
        return found

    def _read_noise(self, op: Operator) -> float:
        """Noise of the tensors that an op reads, if they are rounded to a fixed scale."""
        read = frozenset[int]().union(*(self._sources.get(t, ()) for t in op.inputs))
        return sum(self._noise.tensors.get(t, 0.0) for t in sorted(read))

    def _ops_touching(self) -> dict[int, set[int]]:
        """For each tensor with noise, the ops that would round it, or what was only moved of it."""
        found: dict[int, set[int]] = {tensor: set() for tensor in self._noise.tensors}
        for op in self._graph.operators:
            for tensor in (*op.inputs, *op.outputs):
                for source in self._sources.get(tensor, ()):
                    if source in found:
                        found[source].add(op.index)
        return found

    def _is_readable(self, op: Operator, mode: Mode) -> bool:
        """Whether the run time that the file is for reads an op in a form."""
        form = replace(self._choices[op.index], mode=mode)
        return self._oldest is None or form_runtime(op.name, form) <= self._oldest

    def _network(self, unit: float, others: Mapping[int, Form]) -> Network:
        """Static ops end on the side of "static"; what is cut is what the plan costs."""
        graph = Network("static", "float", most=MOST_COST * self._float_ns)
        for index, choice in self._choices.items():
            op = self._graph.operators[index]
            if choice.mode is not Mode.AUTO:
                side = ("static", index) if choice.mode.is_static else (index, "float")
                graph.add(*side)
                continue
            if not self.static[index].mode.is_static:
                graph.add(index, "float")
                continue
            noise = self._noise.weights.get(index, 0.0)
            static = (Mode.STATIC_INT8, self._time(op, "int8"), noise)
            graph.add(index, "float", self._price(index, unit, static))
            graph.add("static", index, self._price(index, unit, others[index]))
            graph.tie(self._together[index][0], index)
        for whole in self._whole:
            free = [i for i in whole.ops if self._choices[i].mode is Mode.AUTO]
            for one, other in itertools.pairwise(free):
                graph.tie(one, other)
        for tensor in self._graph.tensors:
            if tensor.dtype == "float32" and not tensor.is_constant:
                self._add_tensor(graph, tensor.index, unit)
        return graph

    def _add_tensor(self, graph: Network, tensor: int, unit: float) -> None:
        """Its noise, and the price of a boundary that goes through it."""
        producer = self._graph.producers.get(tensor)
        source: Node = producer.index if producer and producer.index in self._choices else "float"
        readers = [op.index for op, _ in self._graph.uses.get(tensor, [])]
        readers = [r for r in dict.fromkeys(readers) if r in self._choices]
        noise, into, out = ("noise", tensor), ("quantize", tensor), ("dequantize", tensor)
        power = self._noise.tensors.get(tensor, 0.0)
        if power:
            graph.add(noise, "float", unit * power)
            for op in sorted(self._touching[tensor] & set(self._choices)):
                graph.add(op, noise)
        boundary = boundary_ns(self._costs, self._graph, tensor)
        if len(readers) == 1 and source != "float" and tensor not in self._graph.outputs:
            graph.add(readers[0], source, boundary)
            graph.add(source, readers[0], boundary)
            return
        graph.add(into, source, boundary)
        for op in readers:
            graph.add(op, into)
        if source != "float":
            graph.add(source, out, boundary)
            for reader in readers:
                graph.add(out, reader)
            if tensor in self._graph.outputs:
                graph.add(out, "float")

    def _choice(self, index: int, integer: bool, other: Form) -> Choice:
        given = self._choices[index]
        if given.mode is not Mode.AUTO:
            return given
        if integer and self.static[index].mode.is_static:
            return replace(given, mode=Mode.STATIC_INT8)
        return replace(given, mode=other[0], reason=self._why(index, other))

    def _why(self, index: int, other: Form) -> str:
        """Why an op has another form and is not static."""
        op = self._graph.operators[index]
        if not self.static[index].mode.is_static:
            return self.static[index].reason
        if index in self._outside["int8"] and index not in self._outside["float32"]:
            return "in int8 it would leave the delegate"
        if self._time(op, "int8") >= other[1]:
            return "int8 would not make it faster"
        return "in int8 it or its neighbours would cost too much fidelity or conversion"

    def _predicted(self, chosen: Choices) -> tuple[float, float, float]:
        """Time over float and relative noise power of a plan, and of its static part."""
        time, noise, static = self._fixed_ns, 0.0, 0.0
        for index, choice in chosen.items():
            op = self._graph.operators[index]
            if choice.mode.is_static:
                time += self._time(op, "int8")
                static += self._noise.weights.get(index, 0.0)
            else:
                found = next((f for f in self._others[index] if f[0] is choice.mode), None)
                time += found[1] if found else self._time(op, "float32")
                noise += found[2] if found else self._noise.weights.get(index, 0.0)
        if any(c.mode.is_static or c.mode.is_dynamic for c in chosen.values()):
            time += self._costs.first_ns
        integers = {i for i, c in chosen.items() if c.mode.is_static}
        for tensor, power in self._noise.tensors.items():
            static += power if integers & self._touching[tensor] else 0.0
        boundaries = boundaries_ns(self._costs, self._graph, integers)
        return (time + boundaries) / self._float_ns, noise + static, static


def _tried(plain: Sequence[Candidate]) -> dict[Mode, Candidate]:
    """The plans in one mode throughout that there is a working file of."""
    return {mode: c for mode, c in zip(PLAIN, plain, strict=True) if not c.is_refused}


def _bytes_each(mode: Mode) -> float:
    """Bytes that a weight takes in the file."""
    if mode.weight_dtype is not None:
        return mode.weight_dtype.bits / 8
    return 2.0 if mode is Mode.FLOAT16 else 4.0
