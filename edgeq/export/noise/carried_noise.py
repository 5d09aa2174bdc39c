"""States that no 8-bit integers hold: what rounding does to them adds up from step to step.

A state that is kept to 99 % at each step sums the rounding errors of a hundred steps, each of which
is small. So a model with states is run along a sequence here, twice: with its own rounded states,
and with exact ones at each step. What is worse in the first adds up, and what carries it is float.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeq.data.rep_dataset import Sample
from edgeq.data.steps import Step, completed
from edgeq.export.noise.gross_tensors import beside_float
from edgeq.export.noise.sensitivity import Judge
from edgeq.export.plan.choices import Choice, Choices
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.search.costs import float_ns
from edgeq.flatbuffer import Graph, Operator
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import LiteModel
from edgeq.qtypes import DType, FloatArray, QParams
from edgeq.recipe import Mode
from edgeq.runtime.session import Session
from edgeq.versions import Version

MOST_NOISE = 0.005
"""Noise over signal of the outputs that may add up: half of that of 20 dB."""

LOUD_SHARE = 0.1
"""A part is worth being float that makes so much of what adds up."""

LEVELS = 4
"""So far in front of what is carried a result is looked at that goes into it."""

STEPS = 128
"""Steps that are run, over the same inputs again where there are fewer."""

BUDGET_NS = 5e8
"""About what one run over all steps may take; a model that is slower runs fewer."""

LEAST_STEPS = 16
"""Steps that are run at least."""

RUNS = 3
"""Of a model, for each step: exact, with exact states, and with its own."""

State: TypeAlias = tuple[int, int]
"""Tensors of the input and the output of a state."""

Array: TypeAlias = npt.NDArray[Any]

Part: TypeAlias = frozenset[int]
"""Ops that are float together, by index."""


def without_adding_up(
    model: LiteModel,
    plan_of: Callable[[Choices], Plan],
    choices: Choices,
    free: Collection[int],
    steps: Sequence[Sample],
    oldest: Version | None,
) -> dict[int, Choice]:
    """The choices with states in float whose rounding adds up, where the ops may be float.

    Such a state's ops are those between its input and its output; or then all that lead from one
    step to the next, through other states too; or then what goes into these. What has a weight
    keeps it in integers.

    Args:
        model: The float model.
        plan_of: What choices come to.
        choices: What becomes of each op.
        free: Ops that may become float.
        steps: Steps of a sequence, in order.
        oldest: The oldest run time that is to read the file, if that matters.
    """
    found, graph = dict(choices), model.graph
    rounds = _rounds(graph, model.state_tensors) if model.states else []
    carrying = frozenset[int]().union(*rounds)
    if not any(_is_static(found, i) for i in carrying) or not any(
        isinstance(s, Step) for s in steps
    ):
        return found
    near = _levels(graph, carrying)
    around, trial = carrying.union(*near), _Trial(model, steps)

    def noise(part: Part) -> float:
        return trial.added(_rounded(graph, plan_of(found), found, part)) if part else 0.0

    for parts in (_between(graph, model.state_tensors), rounds, *map(_each, near)):
        total = noise(around)
        if total <= MOST_NOISE:
            return found
        offered = [p for p in parts if all(i in free for i in p if _is_static(found, i))]
        loud = {part: noise(part) for part in offered}
        for part in sorted(loud, key=lambda part: (-loud[part], min(part, default=0))):
            if loud[part] <= LOUD_SHARE * total or noise(around) <= MOST_NOISE:
                break
            why = (
                "in integers what is carried from step to step adds up and leaves the outputs "
                f"{-10 * math.log10(total):.0f} dB"
            )
            for index in sorted(i for i in part if _is_static(found, i)):
                op = graph.operators[index]
                found[index] = beside_float(op, graph, found[index], why, oldest)
    return found


def _each(part: Part) -> list[Part]:
    return [frozenset([index]) for index in sorted(part)]


def _levels(graph: Graph, carrying: Part) -> list[Part]:
    """The ops whose results some ops read, those whose results these read, and so on."""
    found, seen = [carrying], carrying
    for _ in range(LEVELS):
        read = {t for i in found[-1] for t in graph.operators[i].inputs}
        made = {graph.producers[t].index for t in read if t in graph.producers}
        found.append(frozenset(made) - seen)
        seen |= found[-1]
    return found[1:]


def _is_static(choices: Choices, index: int) -> bool:
    return index in choices and choices[index].mode is Mode.STATIC_INT8


def _rounded(graph: Graph, plan: Plan, choices: Choices, part: Part) -> dict[int, QParams]:
    """Tensors of int8 that static ops of a part write, or read of what no op writes.

    Their grids, with no end: what is clipped is no question of steps.
    """
    static = [graph.operators[i] for i in part if _is_static(choices, i)]
    touched = {t for op in static for t in (*op.inputs, *op.outputs)}
    inner = {t for t in touched if t not in graph.producers or graph.producers[t].index in part}
    grids = {t: plan.tensors[t] for t in sorted(inner & plan.tensors.keys())}
    return {
        t: QParams(DType.INT16, qparams.scale, (0,))
        for t, qparams in grids.items()
        if qparams.dtype is DType.INT8
    }


def _between(graph: Graph, states: Sequence[State]) -> list[Part]:
    """The ops that lead from each state's input to its output."""
    return [_behind(graph, taken) & _in_front(graph, given) for taken, given in states]


def _rounds(graph: Graph, states: Sequence[State]) -> list[Part]:
    """The ops that lead from one step to the next and, maybe through other states, back."""
    behind = [_behind(graph, taken) for taken, _ in states]
    front = [_in_front(graph, given) for _, given in states]
    leads = np.array([[bool(b & f) for f in front] for b in behind])
    reach = leads.copy()
    for _ in states:
        reach |= reach @ leads
    groups = {
        frozenset(j for j in range(len(states)) if reach[i, j] and reach[j, i])
        for i in range(len(states))
    }
    return [
        frozenset[int]().union(*(behind[i] & front[j] for i, j in itertools.product(g, g)))
        for g in sorted(groups - {frozenset()}, key=min)
    ]


def _behind(graph: Graph, tensor: int) -> Part:
    """The ops that a tensor comes to."""
    return _reached([tensor], lambda t: ((op, op.outputs) for op, _ in graph.uses.get(t, ())))


def _in_front(graph: Graph, tensor: int) -> Part:
    """The ops that a tensor comes from."""
    made = graph.producers
    return _reached([tensor], lambda t: [(made[t], made[t].inputs)] if t in made else [])


def _reached(
    tensors: list[int], follow: Callable[[int], Iterable[tuple[Operator, Sequence[int]]]]
) -> Part:
    found, seen = set[int](), set(tensors)
    while tensors:
        for op, others in follow(tensors.pop()):
            found.add(op.index)
            tensors += [t for t in others if t not in seen]
            seen.update(others)
    return frozenset(found)


class _Trial:
    """A model that is run along a sequence with some of its tensors rounded.

    Args:
        model: The float model.
        steps: Steps of a sequence, in order.
    """

    def __init__(self, model: LiteModel, steps: Sequence[Sample]) -> None:
        self._model = model
        most = int(BUDGET_NS / max(1.0, RUNS * float_ns(model.graph)))
        longer = itertools.islice(_lengthened(steps), max(LEAST_STEPS, min(STEPS, most)))
        self._exact = list(completed(longer, model))
        self._judge = Judge(model, self._exact)

    def added(self, grids: Mapping[int, QParams]) -> float:
        """Noise over signal, in the worst part of the outputs, that a sequence has above its steps.

        Args:
            grids: The tensors that are rounded, and to what.
        """
        if not grids:
            return 0.0
        editor = GraphEditor(self._model.tree)
        editor.round_trips(grids)
        with Session(editor.finish(), threads=1, trusted=True) as session:
            alone = self._noise(session, carries=False)
            return float((self._noise(session, carries=True) - alone).max(initial=0.0))

    def _noise(self, session: Session, carries: bool) -> FloatArray:
        noise, outputs = list[FloatArray](), list[Array]()
        for place, step in enumerate(self._exact):
            whole = step.behind(outputs) if carries and isinstance(step, Step) else step
            session.invoke(whole[: len(self._model.graph.inputs)])
            outputs = [np.array(output) for output in session.outputs()]
            changed = dict(zip(self._model.graph.outputs, outputs, strict=True))
            noise.append(self._judge.parts(place, changed))
        found: FloatArray = np.mean(noise, axis=0)
        return found


def _lengthened(steps: Sequence[Sample]) -> Iterator[Sample]:
    """Steps again and again, as one sequence, where they are of one; else as they are."""
    yield from steps
    whole = [step for step in steps if isinstance(step, Step)]
    if sum(not step.place for step in whole) > 1:
        return
    for count in itertools.count(len(whole)):
        yield whole[count % len(whole)].copied(count)
