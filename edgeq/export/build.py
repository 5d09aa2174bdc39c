"""`Builder`: the one way from what becomes of each op to a file, taken by a search and by `export`.

Plans, rounds, converts, sets the ports, and has the file run once; builds nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from edgeq.calibrate.calibration import Calibration
from edgeq.converter import check_runs
from edgeq.data.rep_dataset import Sample
from edgeq.errors import ModelError, VerificationError
from edgeq.export.convert.convert_plan import Converted, convert
from edgeq.export.convert.integer_ports import Interface
from edgeq.export.convert.loop_weights import lifted_graph
from edgeq.export.deploy.linked_ports import PortParty
from edgeq.export.equalize import Equalized, equalize
from edgeq.export.exported_graph import ExportedGraph
from edgeq.export.noise.carried_noise import without_adding_up
from edgeq.export.noise.clipped_ranges import clipped_ranges
from edgeq.export.noise.float_regions import with_float_regions
from edgeq.export.noise.gross_tensors import without_gross
from edgeq.export.plan.choices import Choice, Choices
from edgeq.export.plan.placement import check_loads, refused_ops
from edgeq.export.plan.planner import make_plan
from edgeq.export.plan.quantization_plan import Plan
from edgeq.export.round.common_weights import CommonWeights
from edgeq.export.round.rounded import Rounded
from edgeq.export.round.rounder import Rounder
from edgeq.files import Content
from edgeq.isolation import Worker
from edgeq.model import LiteModel
from edgeq.ports import read_io
from edgeq.recipe import Mode
from edgeq.targets import HOST, Target
from edgeq.terminal.progress import Advance, nothing
from edgeq.versions import Version

_Key: TypeAlias = frozenset[tuple[int, Choice]]


@dataclass(frozen=True)
class Built:
    """A file and what it was made by.

    Attributes:
        model: The float model that the plan speaks of.
        plan: What became an integer and how.
        fitted: Number of weights that were rounded by what they compute on the data.
        tflite: The file.
        origins: For tensors of the file, the float model's tensor that each came from.
        notes: What is to be said of how it was made, one sentence each.
        least_db: SQNR in dB without which, on samples held out, another plan is the better one.
        estimated_ratio: Time over the float model's, as a search has estimated it; None elsewhere.
    """

    model: LiteModel
    plan: Plan
    fitted: int
    tflite: Content
    origins: Mapping[int, int]
    notes: tuple[str, ...] = ()
    least_db: float = -math.inf
    estimated_ratio: float | None = None

    def beside_float(self) -> ExportedGraph:
        """Its graph beside that of the float model that it was made from."""
        return ExportedGraph(self.model, lifted_graph(self.tflite), self.origins)


@dataclass(frozen=True)
class Workshop:
    """Means to build files of one model with.

    Attributes:
        model: The float model that plans speak of.
        interface: What its ports shall be.
        calibration: Ranges of its tensors.
        choices: Of each op, as far as the recipe says it; tells how weights are rounded.
        samples: Inputs to round weights and to scale channels by.
        converter: The converter's child process.
        target: Where the files are to run.
        sample: An input that each file must run on.
        refines: Whether weights are rounded a second time, by what reaches them in integers.
        threads: Samples that run side by side; None takes what this process may use.
        notes: What is to be said of what was done before, one sentence each.
        weights: What other models of the same file have as well.
        ports: Its ports among those of other models of the same file; None of a model alone.
        steps: Of a model with states, steps of a sequence in order.
    """

    model: LiteModel
    interface: Interface
    calibration: Calibration
    choices: Choices
    samples: Sequence[Sample]
    converter: Worker
    target: Target
    sample: Sample
    refines: bool = False
    threads: int | None = None
    notes: tuple[str, ...] = ()
    weights: CommonWeights = field(default_factory=CommonWeights)
    ports: PortParty | None = None
    steps: Sequence[Sample] = ()


class Builder:
    """Builds files of one model, each at most once.

    Args:
        workshop: What it builds with.
        rounder: One of the same model that has rounded weights before.

    Attributes:
        model: The float model that plans speak of.
    """

    def __init__(self, workshop: Workshop, rounder: Rounder | None = None) -> None:
        self.model = workshop.model
        self._with = workshop
        self._rounder = rounder or Rounder(
            workshop.model, workshop.choices, workshop.samples, workshop.threads, workshop.weights
        )
        self._plans: dict[_Key, Plan] = {}
        self._built: dict[_Key, Built] = {}

    def finished(self, choices: Choices, scales: bool) -> Builder | None:
        """A builder that takes more time for these choices; None where that wins too little.

        It rounds weights a second time, by what the integers before them give: in static int8, and
        where weights have fewer than 8 bits or are to be reconstructed.

        Args:
            choices: What becomes of each op.
            scales: Whether channels are scaled first for those in static int8.
        """
        modes = {choice.mode for choice in choices.values()}
        own = replace(self._with, refines=True)
        if Mode.STATIC_INT8 not in modes:
            gains = any(mode.has_narrow_weights for mode in modes) or self._rounder.passes > 1
            return Builder(own, self._rounder) if gains else None
        made = Equalized(own.model, own.calibration)
        if scales:
            made = equalize(
                own.model, own.calibration, choices, own.samples, own.converter, own.threads,
                own.weights.readers(own.model.graph),
            )  # fmt: skip
        ranges, notes = clipped_ranges(
            made.model, made.calibration, choices, made.tensors, own.samples, own.threads
        )
        own = replace(own, calibration=ranges, notes=(*made.notes, *notes))
        if made.model is own.model:
            return Builder(own, self._rounder)
        return Builder(replace(own, model=made.model))

    def plan(self, choices: Choices) -> Plan:
        """The parameters of every tensor.

        Raises:
            ModelError: A weight is not finite, or a tensor was not calibrated.
            UnsupportedOpError: The target would not load the file.
        """
        plan = self._plan(choices)
        check_loads(self.model, plan, self._with.target)
        return plan

    def refused(self, choices: Choices) -> dict[int, str]:
        """Ops with which this machine or the target would not load the file, and why, by index."""
        plan = self._plan(choices)
        here = refused_ops(self.model, plan, HOST)
        return {**here, **refused_ops(self.model, plan, self._with.target)}

    def _plan(self, choices: Choices) -> Plan:
        key = frozenset(choices.items())
        if key not in self._plans:
            ports = self._with.ports
            linked = None if ports is None else ports.linked(self.model)
            self._plans[key] = make_plan(self.model, self._with.calibration, choices, linked)
        return self._plans[key]

    def with_tables_once(
        self, choices: Choices, free: Collection[int], oldest: Version | None
    ) -> Choices:
        """The choices with tables that others read too looked up in by rows, where ops are free."""
        return self._with.weights.with_tables_once(self.model.graph, choices, free, oldest)

    def with_float_regions(
        self, choices: Choices, free: Collection[int], oldest: Version | None
    ) -> dict[int, Choice]:
        """The choices with float where integers spoil the outputs and win no time."""
        own = self._with
        return with_float_regions(
            self.model, self._plan, choices, free, own.samples, own.target, oldest
        )

    def without_adding_up(
        self, choices: Choices, free: Collection[int], oldest: Version | None
    ) -> dict[int, Choice]:
        """The choices with states in float whose rounding adds up, where ops are free."""
        own = self._with
        free = own.interface.without_integers(self.model, free)
        return without_adding_up(self.model, self._plan, choices, free, own.steps, oldest)

    def without_gross(
        self, choices: Choices, free: Collection[int], oldest: Version | None
    ) -> dict[int, Choice]:
        """The choices without integers that alone would ruin the outputs, where ops are free."""
        own = self._with
        return without_gross(
            self.model, self._plan, choices, free, own.samples, oldest, own.threads
        )

    def rounding_runs(self, choices: Choices) -> int:
        """How often `build` will run a sample to round weights by, or round one once more."""
        plan = self.plan(choices)
        again = self._with.refines * self._rounder.passes * (len(plan.operands) + len(plan.stored))
        return self._rounder.runs(plan) + again

    def rounded(self, plan: Plan, advance: Advance = nothing) -> Rounded:
        """The weights on the grids of a plan."""
        return self._rounder.round(plan, advance)

    def build(self, choices: Choices, advance: Advance = nothing) -> Built:
        """The file in which each op is what was chosen.

        Args:
            choices: What becomes of each op.
            advance: Called now and then, for the progress bar.

        Raises:
            UnsupportedOpError: The target would not load the file.
            ConversionError: The converter refused the plan, or died on it.
            RecipeError: A port cannot be what it shall be.
            VerificationError: The runtime refuses the file, or dies on it.
        """
        key = frozenset(choices.items())
        if key not in self._built:
            self._built[key] = self._made(self.plan(choices), advance)
        return self._built[key]

    def attempt(self, choices: Choices) -> Built:
        """As `build`, but in less time: weights rounded to nearest, and float32 ports."""
        plan = self.plan(choices)
        made = convert(self._with.converter, self.model, plan)
        self._check_runs(made.tflite)
        return Built(self.model, plan, 0, made.tflite, made.origins)

    def _made(self, plan: Plan, advance: Advance) -> Built:
        made, fitted = self._converted(plan, advance)
        self.model.release()
        self._check_runs(made.tflite)
        once = [self._rounder.not_refined] if self._with.refines else []
        notes = (
            *self._with.notes,
            *self._rounder.notes,
            *filter(None, once),
            *plan.untied(self.model),
        )
        return Built(self.model, plan, fitted, made.tflite, made.origins, notes)

    def _converted(self, plan: Plan, advance: Advance) -> tuple[Converted, int]:
        rounded = self.rounded(plan, advance)
        if self._with.refines:
            rounded = self._rounder.refined(plan, rounded, advance)
        fitted, on_grid = rounded.count, rounded.model(self.model)
        del rounded  # a second copy of the weights that nobody needs while the converter works
        return convert(self._with.converter, on_grid, plan, self._with.interface), fitted

    def _check_runs(self, tflite: Content) -> None:
        stored = read_io(tflite).quantize(self.model.by_name(self._with.sample))
        try:
            check_runs(self._with.converter, tflite, stored, "the exported model")
        except ModelError as error:
            raise VerificationError(str(error)) from None
