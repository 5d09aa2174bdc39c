"""`LinkedPorts`: ports of several models of one file that hold the same, such as caches.

What one signature gives is fed to another as the integers that it is, so that the ports of all of
them get one scale. Ports are linked by what the user says: the names of a state's two ends, and
names that an output of one model and an input of another have both.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from edgeq.calibrate.calibration import Calibration
from edgeq.export.plan.choices import Choice, Choices, static_obstacle
from edgeq.export.plan.planner import Linked, Span, is_near_centre, spans
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.common_weights import CommonWeights
from edgeq.flatbuffer import Tensor
from edgeq.model import LiteModel
from edgeq.ports import Link
from edgeq.qtypes import QParams, covering, symmetric
from edgeq.recipe import Mode


class Name(NamedTuple):
    """A name that ports have, of any model."""

    is_input: bool
    name: str


class End(NamedTuple):
    """A port of one of the models, by the number of the model."""

    model: int
    port: Name


Group = tuple[End, ...]
"""Ports that hold the same, of two models at least, inputs and outputs among them."""


@dataclass(frozen=True, eq=False)
class PortParty:
    """A model among those whose ports are linked.

    Attributes:
        model: The float model.
        calibration: Ranges of its tensors.
        choices: Of each op, as far as the recipe says it.
        all: The models of the file.
        number: Its place among them.
    """

    model: LiteModel
    calibration: Calibration
    choices: Choices
    all: LinkedPorts
    number: int

    def linked(self, model: LiteModel) -> Linked:
        """Parameters of linked ports by tensor of this model, or of another form of it."""
        tensors = {port: tensor.index for port, tensor in ports_of(model)}
        return {
            tensors[end.port]: qparams
            for group, qparams in self.all.decided.items()
            for end in group
            if end.model == self.number
        }

    @functools.cached_property
    def spans(self) -> Mapping[Name, Span]:
        """What integers of its ports must hold where all that can be is static."""
        model = self.model
        choices = {i: _static(model, i, choice) for i, choice in self.choices.items()}
        found = spans(model, self.calibration, choices)
        return {port: found[t.index] for port, t in ports_of(model) if t.index in found}


@dataclass(frozen=True, eq=False)
class LinkedPorts:
    """Models whose ports are linked; all of them are added before the first is asked for."""

    _parties: list[PortParty] = field(default_factory=list)

    def add(self, model: LiteModel, calibration: Calibration, choices: Choices) -> PortParty:
        """Takes a model in."""
        party = PortParty(model, calibration, choices, self, len(self._parties))
        self._parties.append(party)
        return party

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The ports that are linked."""
        return tuple(linked_ports([party.model for party in self._parties]))

    @functools.cached_property
    def decided(self) -> Mapping[Group, QParams]:
        """The parameters of each group that can have the same in all models."""
        found = ((group, self._common(group)) for group in self.groups)
        return {group: qparams for group, qparams in found if qparams is not None}

    def _common(self, group: Group) -> QParams | None:
        """The parameters that serve all ports of a group; None where there are none."""
        found = [self._parties[end.model].spans.get(end.port) for end in group]
        known = [span for span in found if span is not None]
        dictated = {span.dictated for span in known} - {None}
        if len({span.dtype for span in known}) != 1 or len(dictated) > 1:
            return None
        low, high = min(s.range[0] for s in known), max(s.range[1] for s in known)
        for qparams in filter(None, dictated):
            step, (least, most) = qparams.scale[0], qparams.range()
            return qparams if least - step <= low and high <= most + step else None
        if is_near_centre((low, high)):
            return symmetric(max(-low, high), known[0].dtype)
        return covering((low, high), known[0].dtype)


@dataclass(frozen=True, eq=False)
class Shared:
    """What the models of one file have in common.

    Attributes:
        weights: Constants that are rounded once.
        ports: What one of them gives and another takes.
    """

    weights: CommonWeights = field(default_factory=CommonWeights)
    ports: LinkedPorts = field(default_factory=LinkedPorts)

    def apart(self) -> Shared:
        """The same weights for a model whose outputs no other one takes."""
        return Shared(self.weights)


def linked_ports(models: Sequence[LiteModel]) -> Iterator[Group]:
    """The ports of models that hold the same, group by group."""
    found = [dict(ports_of(model)) for model in models]
    ends: dict[Name, list[End]] = defaultdict(list)
    for number, ports in enumerate(found):
        for port in ports:
            ends[port].append(End(number, port))
    for names in _alike(models, ends):
        group = tuple(sorted(end for name in names for end in ends[name]))
        forms = [found[end.model][end.port].shape for end in group]
        if _are_of_several(group) and all(_fits(forms[0], f) for f in forms):
            yield group


def _alike(models: Sequence[LiteModel], ends: Mapping[Name, Sequence[End]]) -> list[set[Name]]:
    """Names of ports that hold the same: both ends of states, and what is fed on by one name."""
    pairs = [(Name(True, a), Name(False, b)) for model in models for a, b in model.states]
    for port in ends:
        other = Name(False, port.name)
        if port.is_input and other in ends and _are_of_several([*ends[port], *ends[other]]):
            pairs.append((port, other))
    groups: list[set[Name]] = []
    for pair in pairs:
        met = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in met]
        groups.append(set(pair).union(*met))
    return groups


def _are_of_several(ends: Sequence[End]) -> bool:
    return len({end.model for end in ends}) > 1


def _fits(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether shapes are the same but for one axis, as those of a cache and of a part of it."""
    return len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) < 2


def ports_of(model: LiteModel) -> Iterator[tuple[Name, Tensor]]:
    """Ports that hold real numbers, with their tensors."""
    for is_input, side in ((True, model.input_tensors()), (False, model.output_tensors())):
        for name, tensor in side:
            if tensor.dtype == "float32":
                yield Name(is_input, name), tensor


def links_of(models: Mapping[str, tuple[LiteModel, Plan]]) -> tuple[Link, ...]:
    """The links of models, of which it is planned what their ports hold, by signature key."""
    keys, planned = list(models), list(models.values())
    return tuple(_link(group, keys, planned) for group in linked_ports([m for m, _ in planned]))


def _link(group: Group, keys: Sequence[str], planned: Sequence[tuple[LiteModel, Plan]]) -> Link:
    outputs, inputs = (
        tuple((keys[end.model], end.port.name) for end in group if end.port.is_input is is_input)
        for is_input in (False, True)
    )
    held = {_held(*planned[end.model], end.port) for end in group}
    is_alike = len(held) == 1
    return Link(outputs, inputs, held.pop() if is_alike else None, is_alike)


def _held(model: LiteModel, plan: Plan, port: Name) -> QParams | None:
    """How a port is an integer within the file; None where it is float."""
    return plan.tensors.get(dict(ports_of(model))[port].index)


def _static(model: LiteModel, index: int, choice: Choice) -> Choice:
    """A choice that is left to a search, as static int8 where an op can be."""
    if choice.mode is not Mode.AUTO:
        return choice
    op = model.graph.operators[index]
    why = choice.reason or static_obstacle(model.graph, op, Mode.STATIC_INT8)
    return replace(choice, mode=Mode.FLOAT if why else Mode.STATIC_INT8)
