"""`Ladder`: from what was chosen down to what can be built, one op after the other.

An op becomes float, with the reason, where the target would not load the file with it, where the
converter leaves it float against the plan, and where the plan, the converter or the runtime fails
with it. Halving finds which one that is: all ops behind the first so many are float, until one more
makes it fail. Only what fails with every op float is an error. Decides nothing about speed or
fidelity.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from edgeq.errors import EdgeqError, ProcessKilledError, RecipeError
from edgeq.export.build import Builder, Built
from edgeq.export.plan.choices import Choice, Choices
from edgeq.export.plan.divisors import divisors
from edgeq.export.search.output_joins import output_joins
from edgeq.export.verify import breaking_ops, check_promises
from edgeq.model import LiteModel
from edgeq.recipe import Mode
from edgeq.terminal.progress import Advance, nothing
from edgeq.versions import Version

MOST_STEPS = 16
"""Steps down before all that is left becomes float."""

NOT_OF_OPS = (RecipeError, ProcessKilledError)
"""What no op is the cause of: what was asked for, and the machine."""

REASON_CHARACTERS = 200
"""Of an error that becomes a reason."""


_Job: TypeAlias = Callable[[Choices], object]
_Told: TypeAlias = Callable[[Choices], Mapping[int, str]]


@dataclass(frozen=True)
class Rung:
    """Choices that there is a sound file of, and the file."""

    choices: Choices
    built: Built


class Ladder:
    """Steps down from choices to a sound file, and remembers what it had to leave float.

    Args:
        builder: Builds the files.
        free: Ops that may become float; of any other, what fails is an error.
    """

    def __init__(self, builder: Builder, free: Collection[int]) -> None:
        self.builder = builder
        self._free = frozenset(free)
        self._known: dict[tuple[int, Mode], str] = {}

    def finished(self, choices: Choices, scales: bool) -> Ladder | None:
        """The ladder of the builder that takes more time for these choices; None without one."""
        builder = self.builder.finished(choices, scales)
        return None if builder is None else Ladder(builder, self._free)

    def readied(
        self, choices: Choices, scales: bool, oldest: Version | None
    ) -> tuple[dict[int, Choice], Ladder]:
        """The choices without what would ruin the outputs, and the ladder that finishes them.

        Args:
            choices: What becomes of each op.
            scales: Whether channels may be scaled for them.
            oldest: The oldest run time that is to read the file, if that matters.
        """
        if any(choice.mode is Mode.STATIC_INT8 for choice in choices.values()):
            once = self.builder.with_tables_once(choices, self._free, oldest)
            loadable = self.loadable(once)
            found = self.builder.with_float_regions(loadable, self._free, oldest)
            choices = self.builder.without_adding_up(found, self._free, oldest)
        ladder = self.finished(choices, scales)
        if ladder is None:
            return dict(choices), self
        found = dict(ladder.loadable(choices))
        sound = ladder.builder.without_gross(found, self._free, oldest)
        return (found, ladder) if sound == found else (sound, self.finished(sound, scales) or self)

    def built(self, choices: Choices, advance: Advance = nothing) -> Rung:
        """The file of these choices, or of the first below them that there is a sound file of.

        Args:
            choices: What becomes of each op.
            advance: Called now and then, for the progress bar.

        Raises:
            EdgeqError: There is none, whatever becomes float.
        """
        found = self._stepped(
            self.loadable(choices),
            lambda c: check_promises(self.builder.build(c, advance)),
            lambda c: check_promises(self.builder.attempt(c)),
            lambda c: self._refused(c) or self._left_float(c),
        )
        return Rung(found, self.builder.build(found))

    def loadable(self, choices: Choices) -> Choices:
        """The choices without what cannot be planned or would keep the target from loading.

        Raises:
            EdgeqError: That is so of an op that may not become float.
        """
        return self._stepped(choices, self.builder.plan, self.builder.plan, self._refused)

    def all_float(self, choices: Choices, why: str) -> Rung:
        """The file in which every op that may be is float."""
        found = self._lowest(choices, why)
        return Rung(found, self.builder.build(found))

    def further(self, choices: Choices) -> Iterator[Rung]:
        """Files with more ops in float, for where the one of these choices breaks a promise."""
        yield from self._divisors_float(choices)
        yield from self._joins_float(choices)

    def _joins_float(self, choices: Choices) -> Iterator[Rung]:
        """The file in which what joins the rows of outputs is float, where that may be."""
        why = "rows of the output differ so much that one scale leaves the smaller ones no integers"
        joins = output_joins(self._model.graph) & self._free
        if any(choices[i].mode is not Mode.FLOAT for i in joins):
            yield self.built({i: _float(c, why) if i in joins else c for i, c in choices.items()})

    def _divisors_float(self, choices: Choices) -> Iterator[Rung]:
        """The file in which what float ops divide by is float, where that may be."""
        why = "a float op divides by what it computes, which in integers rounds to 0"
        is_float = [i for i, choice in choices.items() if choice.mode is Mode.FLOAT]
        found = divisors(self._model.graph, is_float) & self._free
        if any(choices[i].mode is not Mode.FLOAT for i in found):
            yield self.built({i: _float(c, why) if i in found else c for i, c in choices.items()})

    @property
    def _model(self) -> LiteModel:
        return self.builder.model

    def _stepped(self, choices: Choices, job: _Job, trial: _Job, told: _Told) -> Choices:
        """The first choices from these down with which a job is done.

        Args:
            choices: What becomes of each op.
            job: Raises where the choices fail.
            trial: The same in less time, for any choices.
            told: Ops that are known to fail without any search, with the reason.
        """
        found = self._without_known(choices)
        for _ in range(MOST_STEPS):
            error = _error_of(job, found)
            if error is None:
                return found
            failing = told(found) or self._failing(found, error, trial)
            self._known.update({(i, found[i].mode): why for i, why in failing.items()})
            found = self._without_known(found)
        return self._lowest(found, "too many ops beside it fail in integers")

    def _refused(self, choices: Choices) -> dict[int, str]:
        """Ops with which the target would not load the file."""
        refused: dict[int, str] = {}
        _error_of(lambda c: refused.update(self.builder.refused(c)), choices)
        return {i: why for i, why in refused.items() if i in self._free}

    def _left_float(self, choices: Choices) -> dict[int, str]:
        """Ops that the converter left float against the plan, where there is a file at all."""
        built: list[Built] = []
        if _error_of(lambda c: built.append(self.builder.build(c)), choices) is not None:
            return {}
        exported = built[0].beside_float()
        broken = (exported.counterpart(op) for op in breaking_ops(exported, built[0].plan, True))
        return {
            op.index: "the converter leaves it float"
            for op in broken
            if op is not None and op.index in self._free
        }

    def _failing(self, choices: Choices, error: Exception, trial: _Job) -> Mapping[int, str]:
        """Ops that fail in a trial, with the reason.

        Raises:
            EdgeqError: Whatever becomes float, the trial fails; or nothing does, and it does not.
        """
        suspects = [i for i in sorted(choices) if choices[i].mode is not Mode.FLOAT]
        last = _error_of(trial, choices)
        if last is None or _error_of(trial, _keeping((), choices)) is not None:
            raise error
        low, high = 0, len(suspects)
        while low + 1 < high:
            middle = (low + high) // 2
            found = _error_of(trial, _keeping(suspects[:middle], choices))
            low, high, last = (middle, high, last) if found is None else (low, middle, found)
        index = suspects[high - 1]
        if index not in self._free:
            raise self._naming(choices, index, error)
        return self._alike(choices, index, _reason(last))

    def _naming(self, choices: Choices, index: int, error: Exception) -> Exception:
        """The error with the op that it comes from."""
        where = self._model.where(self._model.graph.operators[index])
        if where in str(error):
            return error
        return type(error)(f"{where} cannot be {choices[index].mode.value}: {error}")

    def _alike(self, choices: Choices, index: int, why: str) -> dict[int, str]:
        """An op, and from the second of its name on all of that name: they fail alike."""
        operators, mode = self._model.graph.operators, choices[index].mode
        name = operators[index].name
        if not any(operators[i].name == name for i, known in self._known if known is mode):
            return {index: why}
        return {i: why for i in self._free if choices[i].mode is mode and operators[i].name == name}

    def _without_known(self, choices: Choices) -> Choices:
        found = dict(choices)
        for (index, mode), why in self._known.items():
            if found[index].mode is mode:
                found[index] = _float(found[index], why)
        return found

    def _lowest(self, choices: Choices, why: str) -> Choices:
        return {i: _float(c, why) if i in self._free else c for i, c in choices.items()}


def _float(choice: Choice, why: str) -> Choice:
    """The choice made float, unless it is that already."""
    return choice if choice.mode is Mode.FLOAT else Choice(Mode.FLOAT, why)


def _keeping(kept: Collection[int], choices: Choices) -> Choices:
    """The choices with every op float but for those that are kept."""
    return {i: c if i in kept else _float(c, "") for i, c in choices.items()}


def _error_of(job: _Job, choices: Choices) -> Exception | None:
    """What a job raises that may be the fault of an op; a planner's own fault is one as well."""
    try:
        job(choices)
    except NOT_OF_OPS:
        raise
    except Exception as error:
        return error
    return None


def _reason(error: Exception) -> str:
    """An error as the reason that an op is float."""
    text = " ".join(str(error).split())
    if not isinstance(error, EdgeqError):
        text = f"{type(error).__name__}: {text}"
    short = text if len(text) <= REASON_CHARACTERS else f"{text[:REASON_CHARACTERS]}..."
    return f"with it in integers there is no sound file: {short}"
