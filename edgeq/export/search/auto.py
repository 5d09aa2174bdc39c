"""Decides `Mode.AUTO`: which ops become static int8, dynamic range, weight-only or stay float.

Every op has an estimated time and a measured loss in each form, and every boundary between float
and integers has a price. Which ops are static is the minimum cut of that graph; the price of noise
is raised step by step, which gives plans from the fastest to the most faithful. The few that look
best are converted and tried on the real interpreter.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from edgeq.calibrate.calibration import Calibration
from edgeq.data.rep_dataset import Sample
from edgeq.errors import ConversionError, ModelError, VerificationError
from edgeq.export.convert.convert_plan import check_runs, convert
from edgeq.export.exported_graph import BOUNDARY, ExportedGraph
from edgeq.export.plan.choices import (
    LARGE,
    Choice,
    Choices,
    decided_together,
    static_obstacle,
    weight_slot,
)
from edgeq.export.plan.placement import refused_ops
from edgeq.export.plan.planner import make_plan
from edgeq.export.round.rounder import Rounder
from edgeq.export.search.costs import Costs, estimate_ns
from edgeq.export.search.min_cut import Network, Node
from edgeq.export.search.sensitivity import Noise, measure_noise
from edgeq.export.verify import breaking_ops
from edgeq.fidelity.paired_run import PairedRun, Runner
from edgeq.files import Content
from edgeq.flatbuffer import Operator, parse
from edgeq.isolation import Worker
from edgeq.model import FloatModel
from edgeq.ops import WEIGHTS
from edgeq.qtypes import DType
from edgeq.recipe import Mode, Recipe
from edgeq.runtime.benchmark import interleaved_latency
from edgeq.runtime.session import Session
from edgeq.targets import HOST

PRICES = tuple(np.logspace(-2, 5, 15))
"""Prices of noise, in float inferences for each unit of relative noise power."""

SLACK = 1.03
"""More fidelity is taken for at most this much of the cost of the cheapest good plan."""

FINAL_SLACK, MOST_FINALS = 1.08, 4
"""Plans that cost at most so many times the cheapest, and how many of them, are measured once more,
side by side."""

PLAIN = (Mode.STATIC_INT8, Mode.DYNAMIC_INT8, Mode.WEIGHT_INT8)
"""Plans in one mode throughout, which are measured to correct the estimates by."""

PLENTY_DB = 20.0
"""Fidelity beyond the goal that is worth nothing any more."""

NOT_SLOWER = 1.03
"""A plan that takes this share of the float model's time counts as not slower: two measurements of
the same file differ by as much."""

SIZE_WORTH = 0.15
"""What the whole size of the float weights is worth, in times of a float inference."""

DYNAMIC_NOISE = 0.5
"""Noise of an activation that is rounded at each run, over that of one with a fixed scale."""

TRIALS = 4
"""Most plans that are converted and tried; twice as many where their time is measured."""

HALVINGS = 3
"""Plans that are tried besides, where time is measured, at prices in between: as fast as can be
while the goal is reached."""

MEASURE_S = 4.0
"""How long a plan and the float model run in turn, where time is measured."""

MOST_RUNS = 400
"""Most timed runs of each."""

MOST_COST = 4.0
"""No part of a plan counts for more than this many float inferences: staying float costs one."""

Kernels: TypeAlias = frozenset[tuple[int, Mode]]
"""What each op computes in, where that is not float."""

Form: TypeAlias = tuple[Mode, float, float]
"""`(mode, nanoseconds, noise)` of an op."""


@dataclass(frozen=True)
class Candidate:
    """A plan on offer.

    Attributes:
        choices: What becomes of each op.
        time: Time over the float model's: estimated, or measured if it was tried so.
        size: Bytes of weights over the float model's.
        sqnr_db: SQNR of the outputs: estimated, or measured if it was tried.
        price: The price of noise that it is the best plan at, if it was found by one.
    """

    choices: Choices
    time: float
    size: float
    sqnr_db: float
    price: float = math.nan

    @property
    def cost(self) -> float:
        """Time and size in one number."""
        return self.time + SIZE_WORTH * self.size


@dataclass(frozen=True)
class Search:
    """What the search may use.

    Attributes:
        original: The user's float model, which a plan is held against.
        model: The float model that the plans are for.
        calibration: Ranges of its tensors.
        recipe: Pins what it does not leave to the search.
        choices: The recipe's, with `Mode.AUTO` where the search decides.
        samples: Inputs to measure noise on; not those that the result is judged by.
        rounder: Rounds the model's weights.
        worker: The converter's process.
        costs: Rates of the processor to plan for.
        goal_db: SQNR from which on only time counts.
        measure: Whether time is measured here instead of estimated.
        advance: Called now and then, for the progress bar.
        times: Measured time over the float model's of what runs the same kernels; filled here.
    """

    original: FloatModel
    model: FloatModel
    calibration: Calibration
    recipe: Recipe
    choices: Choices
    samples: Sequence[Sample]
    rounder: Rounder
    worker: Worker
    costs: Costs
    goal_db: float
    measure: bool
    advance: Callable[[], None]
    times: dict[Kernels, float] = field(default_factory=dict)

    def run(self) -> Choices:
        """The choices of the best plan."""
        static, tflite = self._all_static()
        outside = self._outside(tflite)
        plan = make_plan(self.model, self.calibration, self.recipe, static)
        rounded = self.rounder.round(plan, self.advance)
        noise = measure_noise(self.model, plan, rounded, self.samples, self.advance)
        cut = _Cut(self.model, self.choices, static, outside, noise, self.costs)
        plain = [self._tried(cut.plain(mode)) for mode in PLAIN] if self.measure else []
        cut.correct(plain)
        prices = PRICES[:: 3 if self._is_large else 1]
        offers = self._worth_trying([cut.candidate(price) for price in prices])
        known = [candidate.choices for candidate in plain]
        tried = [*plain, *self._in_turn([c for c in offers if c.choices not in known])]
        if self.measure:
            tried += self._between(cut, tried)
        tried = [c for c in tried if not math.isnan(c.sqnr_db)] or tried
        return _chosen(self._side_by_side(tried), self.goal_db).choices

    @property
    def _is_large(self) -> bool:
        return len(self.model.graph.operators) >= LARGE

    def _all_static(self) -> tuple[dict[int, Choice], Content | None]:
        """Everything static that the converter makes static, and the file, if there is one."""
        found = {}
        for index, choice in self.choices.items():
            op = self.model.graph.operators[index]
            obstacle = static_obstacle(self.model.graph, op, Mode.STATIC_INT8)
            if choice.mode is Mode.AUTO:
                mode = Mode.FLOAT if obstacle else Mode.STATIC_INT8
                choice = replace(choice, mode=mode, reason=obstacle)
            found[index] = choice
        plan = make_plan(self.model, self.calibration, self.recipe, found)
        for index, why in refused_ops(self.model, plan, HOST).items():
            if self.choices[index].mode is Mode.AUTO:
                found[index] = Choice(Mode.FLOAT, why)
        for _ in range(3):
            tflite = self._converted(found)
            if tflite is None:
                return self._without_static(found), None
            plan = make_plan(self.model, self.calibration, self.recipe, found)
            exported = ExportedGraph(self.model, parse(tflite).graphs[0])
            origins = [exported.counterpart(op) for op in breaking_ops(exported, plan, True)]
            refused = [o.index for o in origins if o is not None]
            if not refused:
                break
            why = "the converter leaves it float"
            found.update({i: Choice(Mode.FLOAT, why) for i in refused})
        return found, tflite

    def _without_static(self, choices: Choices) -> dict[int, Choice]:
        """For models that the converter refuses in int8."""
        auto = {i for i, c in self.choices.items() if c.mode is Mode.AUTO}
        why = "the converter or the runtime refuses the model in static int8"
        return {i: Choice(Mode.FLOAT, why) if i in auto else c for i, c in choices.items()}

    def _converted(self, choices: Choices) -> Content | None:
        """The model by these choices; None if the converter or the runtime refuses it."""
        plan = make_plan(self.model, self.calibration, self.recipe, choices)
        try:
            rounded = self.rounder.round(plan, self.advance).model(self.model)
            tflite = convert(self.worker, rounded, plan)
            check_runs(self.worker, tflite, self.samples[0], "the exported model")
        except (ConversionError, ModelError):
            return None
        self.advance()
        return tflite

    def _outside(self, tflite: Content | None) -> Mapping[str, frozenset[int]]:
        """Ops that the delegate does not take, in float and in the int8 file."""
        with Session(self.model.tflite, threads=1) as session:
            taken = session.coverage().delegated
        operators = self.model.graph.operators
        found = {"float32": frozenset(op.index for op in operators if op.index not in taken)}
        found["int8"] = frozenset()
        if tflite is not None:
            exported = ExportedGraph(self.model, parse(tflite).graphs[0])
            with Session(tflite, threads=1) as session:
                taken = session.coverage().delegated
            left = [op for op in exported.graph.operators if op.index not in taken]
            origins = [exported.counterpart(op) for op in left if op.name not in BOUNDARY]
            found["int8"] = frozenset(o.index for o in origins if o is not None)
        return found

    def _in_turn(self, offers: Sequence[Candidate]) -> list[Candidate]:
        """These plans, tried one after the other; without measuring, the first good one ends it."""
        tried: list[Candidate] = []
        for offer in offers:
            tried.append(self._tried(offer))
            if not self.measure and tried[-1].sqnr_db >= self.goal_db:
                break
        return tried

    def _between(self, cut: _Cut, tried: Sequence[Candidate]) -> list[Candidate]:
        """Tried plans between the least price that reached the goal and the next that did not."""
        found: list[Candidate] = []
        for _ in range(HALVINGS):
            seen = [*tried, *found]
            priced = [c for c in seen if not math.isnan(c.price)]
            least = min((c.price for c in priced if c.sqnr_db >= self.goal_db), default=0.0)
            bad = [c.price for c in priced if c.sqnr_db < self.goal_db and c.price < least]
            if not bad:
                break
            offer = cut.candidate(math.sqrt(max(bad) * least))
            if any(offer.choices == other.choices for other in seen):
                break
            found.append(self._tried(offer))
        return found

    def _side_by_side(self, tried: Sequence[Candidate]) -> list[Candidate]:
        """The plans, those that may be chosen with times that were measured in one run."""
        near = _near(tried, self.goal_db, FINAL_SLACK)
        finals = {_kernels(c.choices): c for c in near}
        if not self.measure or len(finals) < 2:
            return list(tried)
        files = {
            kernels: tflite
            for kernels, candidate in list(finals.items())[:MOST_FINALS]
            if (tflite := self._converted(candidate.choices)) is not None
        }
        judge = PairedRun((self.original, *(FloatModel(f, "edgeq") for f in files.values())))
        with contextlib.closing(judge.load()) as runner:
            self.times.update(zip(files, self._measured_times(runner, judge), strict=True))
        return [replace(c, time=self.times.get(_kernels(c.choices), c.time)) for c in tried]

    def _worth_trying(self, offers: Sequence[Candidate]) -> list[Candidate]:
        """The plan that looks best, then more faithful ones; a spread of all if time counts."""
        front = _front(offers)
        trials = TRIALS * 2 if self.measure else TRIALS
        trials = trials // 2 if self._is_large else trials
        if len(front) <= trials:
            first = _chosen(front, self.goal_db)
            return [first, *(c for c in reversed(front) if c is not first)] if front else []
        start = front.index(_chosen(front, self.goal_db))
        if self.measure:
            others = np.linspace(0, len(front) - 1, trials).round().astype(int).tolist()
            return [front[i] for i in dict.fromkeys([start, *others])]
        rest = np.linspace(start, len(front) - 1, trials).round().astype(int).tolist()
        return [front[i] for i in dict.fromkeys(rest)]

    def _tried(self, offer: Candidate) -> Candidate:
        """An offer with its real SQNR, and its real time if that is measured."""
        tflite = self._converted(offer.choices)
        if tflite is None:
            return replace(offer, sqnr_db=math.nan)
        judge = PairedRun((self.original, FloatModel(tflite, "edgeq")))
        with contextlib.closing(judge.load()) as runner:
            try:
                seen = judge.total(judge.one(runner, s) for s in self.samples)
            except VerificationError:
                return replace(offer, sqnr_db=math.nan)
            kernels = _kernels(offer.choices)
            if self.measure and kernels not in self.times:
                (self.times[kernels],) = self._measured_times(runner, judge)
            time = self.times.get(kernels, offer.time)
        return replace(offer, time=time, sqnr_db=seen.least_db)

    def _measured_times(self, runner: Runner, judge: PairedRun) -> list[float]:
        """Latency of each model of a judge over that of the first one."""
        first = self.samples[0]
        both = zip(runner.sessions, judge.links, strict=True)
        runs = {str(i): (session, link.stored(first)) for i, (session, link) in enumerate(both)}
        budget_s = MEASURE_S / 2 * len(runs)
        base, *others = interleaved_latency(runs, budget_s, MOST_RUNS).values()
        return [other.min_ms / base.min_ms for other in others]


def _kernels(choices: Choices) -> Kernels:
    """What decides how fast a plan is: stored weights become float before anything runs."""
    modes = ((index, choice.mode) for index, choice in choices.items())
    return frozenset((index, mode) for index, mode in modes if mode.is_static or mode.is_dynamic)


def _front(offers: Iterable[Candidate]) -> list[Candidate]:
    """Offers that no other beats in both cost and SQNR, the cheapest first."""
    found: list[Candidate] = []
    for offer in sorted(offers, key=lambda c: (c.cost, -c.sqnr_db)):
        if not found or offer.sqnr_db > found[-1].sqnr_db + 0.01:
            found.append(offer)
    return found


def _near(offers: Sequence[Candidate], goal_db: float, slack: float) -> list[Candidate]:
    """The plans that reach the goal and cost little more than the cheapest, that one first."""
    good = sorted((c for c in offers if c.sqnr_db >= goal_db), key=lambda c: c.cost)
    return [c for c in good if c.cost <= slack * good[0].cost]


def _chosen(offers: Sequence[Candidate], goal_db: float) -> Candidate:
    """The cheapest plan that reaches the goal, or else the most faithful that is not slower."""
    not_slower = [c for c in offers if c.time <= NOT_SLOWER] or offers
    near = _near(not_slower, goal_db, SLACK)
    if near:
        return max(near, key=lambda c: (min(c.sqnr_db, goal_db + PLENTY_DB), -c.cost))
    return max(not_slower, key=lambda c: (c.sqnr_db, -c.cost))


class _Cut:
    """The graph whose minimum cuts are plans."""

    def __init__(
        self,
        model: FloatModel,
        choices: Choices,
        static: Choices,
        outside: Mapping[str, frozenset[int]],
        noise: Noise,
        costs: Costs,
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._choices = choices
        self._static = static
        self._outside = outside
        self._noise = noise
        self._costs = costs
        self._scales: dict[str, float] = {}
        self._float_ns = sum(self._time(op, "float32") for op in self._graph.operators)
        self._together = decided_together(self._graph)
        self._weights = {
            op.index: math.prod(self._graph.tensors[op.inputs[slot]].shape)
            / len(self._together[op.index])
            for op in self._graph.operators
            if (slot := weight_slot(self._graph, op)) is not None
        }
        self._others = {index: self._others_of(index) for index in choices}
        total = sum(self._weights.values())
        self._byte_ns = SIZE_WORTH * self._float_ns / (4 * total) if total else 0.0

    def candidate(self, price: float) -> Candidate:
        """The best plan at a price of noise."""
        unit = price * self._float_ns
        others = self._cheapest(unit)
        integers = self._network(unit, others).source_side()
        chosen = {i: self._choice(i, i in integers, others[i]) for i in self._choices}
        return replace(self._offer(chosen), price=price)

    def correct(self, plain: Sequence[Candidate]) -> None:
        """Has the estimates agree with the measured times of plans in one mode throughout."""
        both = zip(PLAIN, plain, strict=False)  # nothing is measured without being asked for
        measured = {mode: c for mode, c in both if not math.isnan(c.sqnr_db)}
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

    def _form(self, index: int, mode: Mode) -> Form:
        """An op in a mode with float activations, or else in its smallest form."""
        forms = self._others[index]
        return next((form for form in forms if form[0] is mode), forms[-1])

    def _offer(self, chosen: Choices) -> Candidate:
        time, noise = self._predicted(chosen)
        return Candidate(chosen, time, self._size(chosen), -10 * math.log10(max(noise, 1e-12)))

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
        delegated = op.index not in self._outside[place]
        estimated = estimate_ns(self._costs, self._graph, op, form, delegated)
        return estimated * self._scales.get(form, 1.0)

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
        if slot is None:
            return [(Mode.FLOAT, time, 0.0)]
        noise = self._noise.weights.get(index, 0.0)
        found = [(Mode.FLOAT, time, 0.0), (Mode.WEIGHT_INT8, time, noise)]
        row = WEIGHTS[op.name]
        if DType.INT8 in row.dynamic and not row.table:
            rounded = sum(self._noise.tensors.get(t, 0.0) for t in op.inputs)
            dynamic = noise + DYNAMIC_NOISE * rounded
            found.append((Mode.DYNAMIC_INT8, self._time(op, "dynamic"), dynamic))
        return found

    def _network(self, unit: float, others: Mapping[int, Form]) -> Network:
        """Static ops end on the side of "static"; what is cut is what the plan costs."""
        graph = Network("static", "float", most=MOST_COST * self._float_ns)
        for index, choice in self._choices.items():
            op = self._graph.operators[index]
            if choice.mode is not Mode.AUTO:
                side = ("static", index) if choice.mode.is_static else (index, "float")
                graph.add(*side)
                continue
            if not self._static[index].mode.is_static:
                graph.add(index, "float")
                continue
            noise = self._noise.weights.get(index, 0.0)
            static = (Mode.STATIC_INT8, self._time(op, "int8"), noise)
            graph.add(index, "float", self._price(index, unit, static))
            graph.add("static", index, self._price(index, unit, others[index]))
            first = self._together[index][0]
            if first != index:
                graph.add(first, index)
                graph.add(index, first)
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
            for op in {*readers, source} - {"float"}:
                graph.add(op, noise)
        size = math.prod(self._graph.tensors[tensor].shape)
        boundary = self._costs.launch_ns + 2 * size * self._costs.boundary_ns
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
        if integer and self._static[index].mode.is_static:
            return replace(given, mode=Mode.STATIC_INT8)
        return replace(given, mode=other[0], reason=self._why(index))

    def _why(self, index: int) -> str:
        """Why an op is not static."""
        op = self._graph.operators[index]
        if not self._static[index].mode.is_static:
            return self._static[index].reason
        if index in self._outside["int8"] and index not in self._outside["float32"]:
            return "in int8 it would leave the delegate"
        if self._time(op, "int8") >= min(t for _, t, _ in self._others[index]):
            return "int8 would not make it faster"
        return "in int8 it or its neighbours would cost too much fidelity or conversion"

    def _predicted(self, chosen: Choices) -> tuple[float, float]:
        """Time over float and relative noise power of a plan."""
        time = noise = 0.0
        for index, choice in chosen.items():
            op = self._graph.operators[index]
            if choice.mode.is_static:
                time += self._time(op, "int8")
                noise += self._noise.weights.get(index, 0.0)
            else:
                found = next((f for f in self._others[index] if f[0] is choice.mode), None)
                time += found[1] if found else self._time(op, "float32")
                noise += found[2] if found else self._noise.weights.get(index, 0.0)
        integers = {i for i, c in chosen.items() if c.mode.is_static}
        for tensor, power in self._noise.tensors.items():
            producer = self._graph.producers.get(tensor)
            touched = [op.index for op, _ in self._graph.uses.get(tensor, [])]
            touched += [producer.index] if producer else []
            noise += power if integers & set(touched) else 0.0
        return (time + self._boundaries(integers)) / self._float_ns, noise

    def _boundaries(self, integers: set[int]) -> float:
        """Nanoseconds of the conversions between float and integers."""
        total = 0.0
        for tensor in self._graph.tensors:
            if tensor.dtype != "float32" or tensor.is_constant:
                continue
            producer = self._graph.producers.get(tensor.index)
            sides = {op.index in integers for op, _ in self._graph.uses.get(tensor.index, [])}
            sides.add(producer is not None and producer.index in integers)
            if tensor.index in self._graph.outputs:
                sides.add(False)
            if len(sides) == 2:
                size = math.prod(tensor.shape)
                total += self._costs.launch_ns + 2 * size * self._costs.boundary_ns
        return total


def _bytes_each(mode: Mode) -> float:
    """Bytes that a weight takes in the file."""
    if mode.weight_dtype is not None:
        return mode.weight_dtype.bits / 8
    return 2.0 if mode is Mode.FLOAT16 else 4.0
