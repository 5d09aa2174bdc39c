"""Transposes between NCHW and NHWC that a file does not need; every change here is exact.

PyTorch models enter and leave as NCHW while LiteRT computes in NHWC, so that the converter leaves a
transpose at each end. Knows the graph, nothing of quantization.
"""

from __future__ import annotations

from dataclasses import replace

from edgeq.data.input_spec import TO_NHWC
from edgeq.errors import RecipeError
from edgeq.flatbuffer import Graph, Operator, Tensor, pack, unpack
from edgeq.flatbuffer.tensor_merger import TensorMerger
from edgeq.model import LiteModel

LAYOUTS = ("nhwc",)
_TO_NCHW = (0, 3, 1, 2)


def check_layout(layout: str | None) -> None:
    """Raises a `RecipeError` for a layout that does not exist."""
    if layout is not None and layout not in LAYOUTS:
        raise RecipeError(
            f"layout must be {' or '.join(map(repr, LAYOUTS))}, or None to keep the model's own. "
            f"Received: {layout!r}"
        )


def to_nhwc(model: LiteModel) -> LiteModel:
    """The model with NHWC images at its ports, without the transposes behind and before them.

    Raises:
        RecipeError: A 4-D input that something else than a transpose to NHWC reads.
    """
    graph, tree = model.graph, unpack(model.tflite)
    merger = TensorMerger(tree)
    images = [(name, t) for name, t in model.input_tensors() if len(t.shape) == 4]
    if not images:
        raise RecipeError("layout='nhwc' is for models with a 4-D input; this one has none")
    dropped = [(f"input {name!r}", _entry(model, name, tensor)) for name, tensor in images]
    for name, index in model.signature.outputs:
        op = graph.producers.get(index)
        if op is not None and index not in graph.uses and _permutes(graph, op, _TO_NCHW):
            dropped.append((f"output {name!r}", op))
    notes = []
    for port, op in dropped:
        kept = merger.merge(op.inputs[0], op.outputs[0])
        merger.drop(op.index)
        inner = op.outputs[0] if port.startswith("input") else op.inputs[0]
        tensor, shape = tree.subgraphs[0].tensors[kept], tree.subgraphs[0].tensors[inner].shape
        tensor.shape, tensor.shapeSignature = shape, None
        notes.append(f"{port} is NHWC {tuple(int(d) for d in shape)}, as layout='nhwc' asks for")
    merger.apply()
    names = tuple(name for name, _ in images)
    return replace(
        model, tflite=pack(tree), notes=(*model.notes, *notes), nhwc=(*model.nhwc, *names)
    )


def _entry(model: LiteModel, name: str, tensor: Tensor) -> Operator:
    """The one op that reads an image, which must be its transpose to NHWC."""
    readers = [op for op, _ in model.graph.uses.get(tensor.index, [])]
    if len(readers) == 1 and _permutes(model.graph, readers[0], TO_NHWC):
        return readers[0]
    read = "; ".join(model.where(op) for op in readers) or "no op"
    raise RecipeError(
        f"layout='nhwc' needs a transpose to NHWC behind each 4-D input, but {name!r} of shape "
        f"{tensor.shape} is read by {read}. Drop the layout: the input is NHWC already, or the "
        "model computes with it as it is"
    )


def _permutes(graph: Graph, op: Operator, axes: tuple[int, ...]) -> bool:
    """Whether an op does what transposing a 4-D tensor by `axes` does."""
    before, after = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
    if len(before) != 4 or after != tuple(before[axis] for axis in axes):
        return False
    if op.name == "TRANSPOSE":
        return _constant(graph, op, 1) == axes
    long = [axis for axis in axes if before[axis] != 1]
    return op.name == "RESHAPE" and long == sorted(long)  # nothing moves in memory


def _constant(graph: Graph, op: Operator, slot: int) -> tuple[int, ...]:
    data = graph.tensors[op.inputs[slot]].data
    return () if data is None else tuple(int(n) for n in data.reshape(-1))
