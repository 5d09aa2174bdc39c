"""`LiteModel`: what every front end delivers and every later stage reads.

A float .tflite file, the main graph and the signature of it that are exported, and layer paths in
the framework's own words. Other graphs are there only for the loops and branches that run them.
Knows the file's view, nothing of quantization.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeq.errors import ModelError
from edgeq.files import Content, release
from edgeq.flatbuffer import Graph, Model, Operator, Signature, Tensor, parse_tree, unpack
from edgeq.qtypes import QParams

_REPEAT = re.compile(r"#\d+$")


@dataclass(frozen=True)
class LiteModel:
    """A model as LiteRT sees it: float, or with integers where results are read back.

    Attributes:
        tflite: The .tflite file, mapped where it is large.
        origin: Framework that it came from, for example `"pytorch"`.
        notes: What was done to it that the user should know, one sentence each.
        nhwc: Inputs that the file takes as NHWC, but the user's model as NCHW, by name.
        learned: `(layer path, lowest, highest)` of what layers read, as quantization-aware training
            has found it.
        given: Parameters that the model brought with it, by tensor name.
        doubts: Where the file computes otherwise than the framework, one sentence each.
        states: Names of the input and the output of each state, which a caller feeds back.
        fixed: The value of each input that decides over shapes or branches, as the file has it
            whatever is given, by name.
    """

    tflite: Content
    origin: str
    notes: tuple[str, ...] = ()
    nhwc: tuple[str, ...] = ()
    learned: tuple[tuple[str, float, float], ...] = ()
    given: tuple[tuple[str, QParams], ...] = ()
    doubts: tuple[str, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    fixed: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if len(self._model.signatures) > 1:
            keys = [signature.key for signature in self._model.signatures]
            data = ", ".join(f"{key!r}: ..." for key in keys)
            raise ModelError(
                f"the model has {len(keys)} signatures; export all of them with data for each: "
                f"edgeq.export(model, {{{data}}})"
            )

    def __repr__(self) -> str:
        ops = len(self.graph.operators)
        return f"LiteModel(from {self.origin}, {ops} ops, {len(self.tflite) / 1000:,.1f} kB)"

    def __reduce__(self) -> tuple[type[LiteModel], tuple[object, ...]]:
        """Goes to another process as the file alone; what was read from it is read again there."""
        return LiteModel, (
            self.tflite, self.origin, self.notes, self.nhwc, self.learned, self.given, self.doubts,
            self.states, self.fixed,
        )  # fmt: skip

    @functools.cached_property
    def _model(self) -> Model:
        return parse_tree(self.tree, len(self.tflite))

    @functools.cached_property
    def tree(self) -> Any:
        """The file's object tree, shared by all who read it; `GraphEditor` works on a copy."""
        return unpack(self.tflite)

    @property
    def graph(self) -> Graph:
        """The graph that is exported."""
        return self._model.graphs[0]

    @functools.cached_property
    def signature(self) -> Signature:
        """The entry point; made up from tensor names where the file has none."""
        if self._model.signatures:
            return self._model.signatures[0]
        tensors = self.graph.tensors
        return Signature(
            "serving_default", 0,
            tuple((tensors[i].name, i) for i in self.graph.inputs),
            tuple((tensors[i].name, i) for i in self.graph.outputs),
        )  # fmt: skip

    @functools.cached_property
    def given_qparams(self) -> dict[int, QParams]:
        """Parameters that the model brought with it, by tensor index."""
        given = dict(self.given)
        return {t.index: given[t.name] for t in self.graph.tensors if t.name in given}

    @property
    def state_tensors(self) -> tuple[tuple[int, int], ...]:
        """Tensors of the input and the output of each state."""
        inputs, outputs = dict(self.signature.inputs), dict(self.signature.outputs)
        return tuple((inputs[taken], outputs[given]) for taken, given in self.states)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the float file, which ties a calibration to its model."""
        found = hashlib.sha256(self.tflite).hexdigest()
        self.release()
        return found

    def release(self) -> None:
        """Lets the system take back what was read of a large file; the next reader reads again."""
        release(self.tflite)

    def layer(self, op: Operator) -> str:
        """Layer path of an op in the framework's words, for example `features.0.conv`."""
        return layer(self.graph, op)

    def where(self, op: Operator) -> str:
        """How errors and reports name an op, for example `CONV_2D at features.0.conv (op 3)`."""
        return f"{op.name} at {self.layer(op) or '?'} (op {op.index})"

    def by_name(self, sample: Sequence[npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The arrays of a sample by input name."""
        names = [name for name, _ in self.input_tensors()]
        return dict(zip(names, sample, strict=True))

    def input_tensors(self) -> tuple[tuple[str, Tensor], ...]:
        """`(signature name, tensor)` of each input, in the graph's order."""
        return self._named(self.graph.inputs, self.signature.inputs)

    def output_tensors(self) -> tuple[tuple[str, Tensor], ...]:
        """`(signature name, tensor)` of each output, in the graph's order."""
        return self._named(self.graph.outputs, self.signature.outputs)

    def _named(
        self, indices: tuple[int, ...], signature: tuple[tuple[str, int], ...]
    ) -> tuple[tuple[str, Tensor], ...]:
        """Tensors with their names; one tensor may be there under several of them."""
        left: dict[int, list[str]] = {}
        for name, index in signature:
            left.setdefault(index, []).append(name)
        return tuple(
            (left[i].pop(0) if left.get(i) else "", self.graph.tensors[i]) for i in indices
        )


def layer(graph: Graph, op: Operator) -> str:
    """Layer path of an op: the name of what it computes, without the number of a repeat."""
    return _REPEAT.sub("", graph.tensors[op.outputs[0]].name) if op.outputs else ""
