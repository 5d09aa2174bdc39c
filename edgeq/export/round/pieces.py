"""`Pieces`: a float model that runs piece after piece, with all samples through each.

What the weights of a piece are may so depend on what the pieces before it put out. Knows how to run
a model, nothing of how weights are found.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from edgeq.data.rep_dataset import Sample
from edgeq.export.round.rounded import Rounded
from edgeq.flatbuffer import Graph
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.flatbuffer.object_tree import excerpt
from edgeq.model import LiteModel
from edgeq.qtypes import QParams, dequantize, quantize
from edgeq.runtime.crew import Crew
from edgeq.runtime.session import Session

Array = npt.NDArray[Any]


class Pieces:
    """A model and what its tensors hold at one place among its ops, for every sample.

    Args:
        model: The float model.
        tensors: Those of which each reader gets the integers' values.
        samples: Inputs, which are all in memory, as is what later pieces read.
        end: Index of the op behind the last one that is to be run.
        threads: Samples that run side by side; None takes what this process may use.

    Attributes:
        values: What tensors that ops behind the place read hold, for each sample.
    """

    def __init__(
        self,
        model: LiteModel,
        tensors: Mapping[int, QParams],
        samples: Sequence[Sample],
        end: int,
        threads: int | None,
    ) -> None:
        self._model = model
        self._graph = model.graph
        self._tensors = tensors
        self._end = end
        self._threads = threads
        self._place = 0
        self.values = [
            {t: self._seen(t, array) for t, array in zip(self._graph.inputs, sample, strict=False)}
            for sample in samples
        ]

    def _seen(self, tensor: int, values: Array) -> Array:
        """An input of the model as its readers get it."""
        qparams = self._tensors.get(tensor)
        return values if qparams is None else dequantize(quantize(values, qparams), qparams)

    def run_to(self, place: int, rounded: Rounded) -> None:
        """Runs the ops in front of a place that have not run yet.

        Args:
            place: Index of the first op that does not run.
            rounded: Weights that ops have.
        """
        ops = range(self._place, place)
        made = {t for i in ops for t in self._graph.operators[i].outputs}
        outputs = [t for t in sorted(made) if self._is_read_behind(t, place)]
        read = {t for i in ops for t in self._graph.operators[i].inputs}
        inputs = [t for t in sorted(read) if t in self.values[0]]
        if outputs:
            self._run(self._piece(ops, inputs, outputs, rounded), inputs, outputs)
        for values in self.values:
            for tensor in [t for t in values if not self._is_read_behind(t, place)]:
                del values[tensor]
        self._place = place

    def _is_read_behind(self, tensor: int, place: int) -> bool:
        return _is_live(self._graph, tensor, place, self._end)

    def _piece(
        self, ops: range, inputs: Sequence[int], outputs: Sequence[int], rounded: Rounded
    ) -> Any:
        tree, places = excerpt(self._model.tree, ops)
        editor = GraphEditor(tree)
        rounded.of(ops).store(editor, self._graph, ops.start, places)
        editor.set_ports([places[t] for t in inputs], [places[t] for t in outputs])
        made = [t for i in ops for t in self._graph.operators[i].outputs]
        editor.round_trips({places[t]: self._tensors[t] for t in made if t in self._tensors})
        editor.prune()
        editor.strip()
        return editor.finish()

    def _run(self, tflite: Any, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        def results(session: Session, sample: Sequence[Array]) -> list[Array]:
            session.invoke(sample)
            return session.outputs()

        samples = [tuple(values[t] for t in inputs) for values in self.values]
        with Crew(lambda: Session(tflite, threads=1, trusted=True), self._threads) as crew:
            for values, found in zip(self.values, crew.map(samples, results), strict=True):
                values.update(zip(outputs, found, strict=True))


def live_bytes(graph: Graph, end: int) -> list[int]:
    """For each place, about how many bytes ops from it to an end read of what is in front of it."""
    changes = [0] * (len(graph.operators) + 2)
    for tensor in dict.fromkeys((*graph.inputs, *graph.producers)):
        maker = graph.producers.get(tensor)
        first = 0 if maker is None else maker.index + 1
        readers = [op.index for op, _ in graph.uses.get(tensor, ()) if first <= op.index < end]
        if readers:
            size = 4 * math.prod(max(1, size) for size in graph.tensors[tensor].shape)
            changes[first] += size
            changes[max(readers) + 1] -= size
    return list(itertools.accumulate(changes))


def _is_live(graph: Graph, tensor: int, place: int, end: int) -> bool:
    return any(place <= op.index < end for op, _ in graph.uses.get(tensor, ()))
