"""`Tail`: the float model from one of its ops on, run again and again with changes near that op.

What is in front of the op has run once. A change is a difference that is added to what it changes,
in a file that is loaded once for all of them. Where no sum can say it, as of a recurrent layer's
states or of minus infinity, the changed model itself is written. Knows nothing of how noise is
judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeq.export.noise.changes import Change, Changes
from edgeq.files import Content
from edgeq.flatbuffer import Graph
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.qtypes import FloatArray
from edgeq.runtime.session import Session

Array: TypeAlias = npt.NDArray[Any]
Values: TypeAlias = Mapping[int, Array]
"""What tensors hold, by index."""

FED = ("float32", "int32", "int64", "bool")
"""Types of tensors that a file takes as inputs."""

SUM_ERROR = 2.0**-12
"""A sum says a change if it is off by at most so much of the largest value: 1/16 of a step."""


def places(graph: Graph) -> list[bool]:
    """For each op, whether what ops in front of it have computed can be fed to the others.

    A variable that both sides use cannot, nor what has a size that is known at run time alone.
    """
    touched: dict[int, list[int]] = {t: [-1] for t in graph.inputs}
    for op in graph.operators:
        for index in (*op.inputs, *op.outputs):
            if index >= 0 and not graph.tensors[index].is_constant:
                touched.setdefault(index, []).append(op.index)
    found = [True] * len(graph.operators)
    for index, ops in touched.items():
        tensor = graph.tensors[index]
        if tensor.is_variable or tensor.dtype not in FED or min(tensor.shape, default=1) < 1:
            for place in range(min(ops) + 1, max(ops) + 1):
                found[place] = False
    found[:1] = [True] * len(found[:1])
    return found


@dataclass(frozen=True)
class Seen:
    """The outputs that a block of changes may change, of a sample, by tensor."""

    block: int
    sample: int
    outputs: Values


class Tail:
    """The float model from one of its ops on.

    Args:
        changes: All that can be changed.
        start: Index of its first op.
        blocks: Changes that are made together.
    """

    def __init__(self, changes: Changes, start: int, blocks: Sequence[Sequence[Change]]) -> None:
        self._changes = changes
        self._graph = changes.graph
        self._start = start
        self._blocks = [Change.joined(block) for block in blocks]

    def run(self, values: Sequence[Values]) -> Iterator[Seen]:
        """The outputs with each block of changes.

        Args:
            values: What ops from the first one on read of all that is in front, by sample.
        """
        sums = [i for i, block in enumerate(self._blocks) if self._is_sum(block)]
        told = self._differences([self._blocks[i] for i in sums], values)
        added = {
            i: found
            for i, found in zip(sums, told, strict=True)
            if all(difference is not None for difference in found)
        }
        if added:
            yield from self._run_sums(added, values)
        for index, block in enumerate(self._blocks):
            if index not in added:
                yield from self._run_changed(index, block, values)

    def _is_sum(self, block: Change) -> bool:
        """Whether a block may be differences of plain tensors whose size is known."""
        for index in block.weights:
            op = self._graph.operators[index]
            touched = [self._graph.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0]
            if any(tensor.is_variable or -1 in tensor.shape for tensor in touched):
                return False
        return bool(self._changes.written(block))

    def _run_sums(
        self, added: Mapping[int, Sequence[Values | None]], values: Sequence[Values]
    ) -> Iterator[Seen]:
        written = {t for i in added for t in self._changes.written(self._blocks[i])}
        wanted = self._outputs(written)
        if not wanted:
            return
        fed = self._fed(values, written)
        tflite, terms, sums = self._with_sums(sorted(written), fed, wanted)
        with Session(tflite, threads=1, trusted=True) as session:
            for term in terms.values():
                session.view(term)[...] = 0
            for place, sample in enumerate(values):
                _feed(session, {t: sample[t] for t in fed})
                for index, found in added.items():
                    difference = {terms[t]: array for t, array in (found[place] or {}).items()}
                    _feed(session, difference)
                    session.invoke()
                    outputs = {t: np.array(session.view(sums.get(t, t))) for t in wanted}
                    yield Seen(index, place, outputs)
                    for term in difference:
                        session.view(term)[...] = 0

    def _run_changed(self, index: int, block: Change, values: Sequence[Values]) -> Iterator[Seen]:
        """With the changed model itself."""
        wanted = self._outputs(set(block.tensors))
        if not wanted:
            return
        fed = self._fed(values, set(block.tensors))
        editor = GraphEditor(self._changes.model.tree)
        editor.replace(lambda index: () if index < self._start else None)
        editor.set_ports(fed, wanted)
        self._changes.make(block, editor, self._start)
        tflite, results = _finished(editor)
        with Session(tflite, threads=1, trusted=True) as session:
            for place, sample in enumerate(values):
                _feed(session, {t: sample[t] for t in fed})
                session.invoke()
                arrays = (np.array(session.view(t)) for t in results)
                yield Seen(index, place, dict(zip(wanted, arrays, strict=True)))

    def _outputs(self, changed: Collection[int]) -> list[int]:
        """Outputs of the graph that may be others than before."""
        made = {t for op in self._graph.operators[self._start :] for t in op.outputs}
        return [t for t in dict.fromkeys(self._graph.outputs) if t in made or t in changed]

    def _fed(self, values: Sequence[Values], changed: Collection[int]) -> list[int]:
        """What is read of all that is in front."""
        read = {t for op in self._graph.operators[self._start :] for t in op.inputs}
        return [t for t in values[0] if t in read or t in changed]

    def _with_sums(
        self, written: Sequence[int], fed: Sequence[int], wanted: Sequence[int]
    ) -> tuple[Content, dict[int, int], dict[int, int]]:
        """The file in which tensors are read with differences added, these, and the sums."""
        graph, editor = self._graph, GraphEditor(self._changes.model.tree)
        terms, sums = (
            {t: editor.tensor(f"edgeq/{word}/{t}", graph.tensors[t].shape) for t in written}
            for word in ("difference", "sum")
        )
        behind: dict[int, list[Any]] = {}
        for tensor in written:
            maker = graph.producers.get(tensor)
            add = editor.op(
                "ADD", [tensor, terms[tensor]], [sums[tensor]], fusedActivationFunction=0
            )
            behind.setdefault(-1 if maker is None else maker.index, []).append(add)

        def rewired(index: int) -> list[Any]:
            if index < self._start:
                return []
            op = graph.operators[index]
            first = behind.get(-1, []) if index == self._start else []
            own = editor.copied(index, [sums.get(t, t) for t in op.inputs], op.outputs)
            return [*first, own, *behind.get(index, [])]

        editor.replace(rewired)
        editor.set_ports([*fed, *terms.values()], [sums.get(t, t) for t in wanted])
        return _finished(editor)[0], terms, sums

    def _differences(
        self, blocks: Sequence[Change], values: Sequence[Values]
    ) -> list[list[Values | None]]:
        """What each block adds to what it changes, by sample; None where no sum says it."""
        if not blocks:
            return []
        fed = self._fed(values, {t for block in blocks for t in block.tensors})
        tflite, twins = self._with_twins(Change.joined(blocks), fed)
        found: list[list[Values | None]] = [[] for _ in blocks]
        with Session(tflite, threads=1, trusted=True) as session:
            for sample in values:
                _feed(session, {t: sample[t] for t in fed})
                session.invoke()
                for block, seen in zip(blocks, found, strict=True):
                    seen.append(self._difference(block, session, twins))
        return found

    def _with_twins(self, change: Change, fed: Sequence[int]) -> tuple[Content, dict[int, int]]:
        """The ops that a change is made at, those with weights twice, and what the second write."""
        graph, editor = self._graph, GraphEditor(self._changes.model.tree)
        end = max(self._start, *self._changes.makers(change)) + 1
        operands = {index: self._changes.operands(index, editor) for index in change.weights}
        twins = {
            t: editor.typed(f"edgeq/twin/{t}", graph.tensors[t].shape, graph.tensors[t].dtype)
            for index in change.weights
            for t in graph.operators[index].outputs
        }

        def doubled(index: int) -> list[Any] | None:
            if not self._start <= index < end:
                return []
            if index not in operands:
                return None
            op = graph.operators[index]
            inputs = [operands[index].get(slot, t) for slot, t in enumerate(op.inputs)]
            twin = editor.copied(index, inputs, [twins[t] for t in op.outputs])
            return [editor.copied(index, op.inputs, op.outputs), twin]

        editor.replace(doubled)
        written = self._changes.written(change)
        made = [*(t for t in written if t not in fed), *(twins[t] for t in written if t in twins)]
        editor.set_ports(fed, made or graph.operators[self._start].outputs)
        return _finished(editor)[0], twins

    def _difference(
        self, block: Change, session: Session, twins: Mapping[int, int]
    ) -> Values | None:
        found: dict[int, FloatArray] = {}
        for tensor in self._changes.written(block):
            before = np.array(session.view(tensor))
            after = []
            if tensor in block.tensors:
                after.append(self._changes.rounded(tensor, before))
            maker = self._graph.producers.get(tensor)
            if maker is not None and maker.index in block.weights:
                after.append(np.array(session.view(twins[tensor])))
            with np.errstate(all="ignore"):
                differences = [one - before for one in after]
                pairs = zip(differences, after, strict=True)
                if not all(_is_said(before, difference, one) for difference, one in pairs):
                    return None
                found[tensor] = np.sum(differences, axis=0, dtype=np.float32)
        return found


def _is_said(before: FloatArray, difference: FloatArray, after: FloatArray) -> bool:
    """Whether a sum in float32 gives what is there after a change."""
    largest = np.abs(after).max(initial=0.0)
    error = np.abs((before + difference) - after).max(initial=0.0)
    return bool(np.isfinite(largest) and error <= SUM_ERROR * largest)


def _feed(session: Session, values: Values) -> None:
    for tensor, array in values.items():
        session.view(tensor)[...] = array


def _finished(editor: GraphEditor) -> tuple[Content, list[int]]:
    """The file without what nobody reads, and its outputs."""
    editor.prune()
    editor.strip()
    return editor.finish(), editor.tree.subgraphs[0].outputs.tolist()
