"""Sizes that a file leaves open get those of a sample, and what follows from sizes is computed.

Most ops of a file with an open batch work out shapes. With the sizes of the inputs known, the
interpreter finds the shapes of all tensors but those that depend on values; ops that read constants
alone are run once and their results kept, until nothing is left to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgeq.errors import ModelError
from edgeq.export.importing.constant_ops import compute_constants
from edgeq.export.importing.small_file import without_large_constants
from edgeq.files import Content
from edgeq.flatbuffer import Graph, parse_tree
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.runtime.interpreter import plain_interpreter

Shape = tuple[int, ...]

ROUNDS_MAX = 200
"""Sizes follow from sizes at most so often."""


def has_open_sizes(graph: Graph) -> bool:
    """Whether a tensor of a graph may have any size along a dimension."""
    return any(-1 in tensor.shape for tensor in graph.tensors)


def fix_sizes(tree: Any, sizes: Mapping[int, Shape], worker: Worker) -> None:
    """Gives every tensor of the main graph its size where it does not depend on values.

    Args:
        tree: The file's object tree, which is changed.
        sizes: Shape of each input, by tensor index.
        worker: A child process to run the interpreter in.

    Raises:
        ModelError: The runtime refuses the model with inputs of these shapes.
    """
    for tensor, shape in sizes.items():
        _set_shape(tree.subgraphs[0].tensors[tensor], shape)
    for _ in range(ROUNDS_MAX):
        _note_shapes(tree, worker)
        if not compute_constants(tree, worker):
            return


def _set_shape(entry: Any, shape: Sequence[int]) -> None:
    entry.shape, entry.shapeSignature = np.asarray(shape, np.int32), None


def _note_shapes(tree: Any, worker: Worker) -> None:
    """Writes down the shapes that the interpreter finds."""
    graph = parse_tree(tree).graphs[0]
    try:
        small = without_large_constants(tree)
        found = worker.call(f"{__name__}:allocated_shapes", small, len(graph.tensors))
    except (JobCrashed, JobFailed) as error:
        given = ", ".join(str(graph.tensors[t].shape) for t in graph.inputs)
        raise ModelError(
            f"the runtime does not take the model with inputs of shape {given}, as the sample has "
            f"them: it {' '.join(error.reason.split())}. Give samples of another size"
        ) from None
    for tensor, shape in zip(graph.tensors, found, strict=True):
        if shape is not None and not tensor.is_constant:
            _set_shape(tree.subgraphs[0].tensors[tensor.index], shape)


def allocated_shapes(tflite: Content, count: int) -> list[Shape | None]:
    """Job: the shape of each of the main graph's tensors, None where it depends on values."""
    interpreter = plain_interpreter(tflite, experimental_preserve_all_tensors=True)
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    return [_allocated_shape(interpreter, details.get(index)) for index in range(count)]


def _allocated_shape(interpreter: Any, detail: Mapping[str, Any] | None) -> Shape | None:
    """The shape of a tensor that was given memory; one of a size yet unknown was given none."""
    if detail is None:
        return None
    try:
        interpreter.tensor(detail["index"])()
    except ValueError:
        return None
    return tuple(int(size) for size in detail["shape"])
