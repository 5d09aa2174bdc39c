"""The part of the ONNX front end that runs in a child process: native code reads a foreign file.

Imports ONNX and PyTorch, so only the child imports this module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgeq.converter import start_converter
from edgeq.data.as_numpy import to_numpy
from edgeq.errors import DataError, ModelError
from edgeq.export.frontends import torch as pytorch
from edgeq.export.frontends.arguments import fixed_sizes
from edgeq.export.frontends.onnx import (  # noqa: F401  # they fill the table of ops
    control_flow,
    tensor_sequences,
)
from edgeq.export.frontends.onnx.fusions import fused, pruned
from edgeq.export.frontends.onnx.graph_interpreter import specialised
from edgeq.export.frontends.onnx.onnx_file import OnnxModel, read_model
from edgeq.export.frontends.onnx.operators import (  # noqa: F401  # they fill the table of ops
    borders,
    classical,
    data_movement,
    fused_attention,
    fused_ops,
    image_boxes,
    recurrent,
    resizing,
    signal_ops,
    windows_and_sums,
)
from edgeq.export.frontends.onnx.operators.elementwise import DTYPES
from edgeq.export.frontends.onnx.reference import check
from edgeq.export.frontends.onnx.replay import Replay
from edgeq.export.frontends.onnx.stored_scales import with_stored_scales
from edgeq.files import MappedFile
from edgeq.flatbuffer import with_port_names
from edgeq.model import LiteModel

Arrays = dict[str, npt.NDArray[Any]]

NOT_COMPARED = "the float model was not compared with ONNX's own runtime, which crashed on it"


def traced(source: str | bytes | MappedFile, sample: Any, compared: bool = True) -> LiteModel:
    """An ONNX model as a float LiteRT model with the shapes of a sample.

    Args:
        source: Path or content of the file.
        sample: An array, a tuple of them in the order of the model's inputs, or a dict by name.
        compared: Whether ONNX's own runtime computes the sample as well.
    """
    model = read_model(source if isinstance(source, str) else bytes(source))
    arguments = bound(model, sample)
    tensors = {name: torch.from_numpy(array) for name, array in arguments.items()}
    program = specialised(model, tensors)
    notes = [*fixed_sizes({p.name: p.shape for p in model.inputs}, arguments), *program.notes]
    notes += check(model, arguments, program) if compared else [NOT_COMPARED]
    inputs = {f"input_{i}": name for i, name in enumerate(arguments)}
    outputs = {f"output_{i}": name for i, name in enumerate(program.outputs)}
    fixed = tuple(program.fixed.items())
    program = pruned(fused(program))
    module = Replay(program, list(outputs)).eval()
    named = {short: tensors[name] for short, name in inputs.items()}
    with start_converter() as worker:
        found = pytorch.trace_module(module, named, worker, tuple(notes), "onnx")
    found = with_stored_scales(found, program)
    given = tuple((inputs.get(name, name), qparams) for name, qparams in found.given)
    tflite = with_port_names(found.tflite, inputs, outputs)
    return replace(found, tflite=tflite, given=given, fixed=fixed)


def bound(model: OnnxModel, sample: Any) -> Arrays:
    """The arrays of a sample by the input that each is for, in the input's type.

    Raises:
        DataError: They do not fit.
    """
    named = _named(model, sample)
    return {port.name: _fitting(port, named[port.name]) for port in model.inputs}


def _named(model: OnnxModel, sample: Any) -> Mapping[str, Any]:
    names = [port.name for port in model.inputs]
    if isinstance(sample, Mapping):
        if set(sample) != set(names):
            stored = [name for name in sample if name in model.body.constants]
            raise DataError(
                f"the sample does not fit the ONNX model: its inputs are {_list(names)}"
                f"{_said_of_stored(stored)}. Received: {_list(sample)}"
            )
        return sample
    values = list(sample) if isinstance(sample, tuple | list) else [sample]
    labels = [to_numpy(value) for value in values[len(names) :]]
    if len(values) < len(names) or any(a.ndim > 1 or a.dtype.kind not in "iub" for a in labels):
        inputs = [value.name for value in model.proto.graph.input]
        stored = [name for name in inputs if name in model.body.constants]
        raise DataError(
            f"the sample does not fit the ONNX model: its inputs are {_list(names)}"
            f"{_said_of_stored(stored)}. Received: {len(values)} arrays"
        )
    return dict(zip(names, values, strict=False))


def _said_of_stored(names: Sequence[str]) -> str:
    """What becomes of inputs with a value in the file, as the end of a sentence."""
    if not names:
        return ""
    more = f" and {len(names) - 3} others" if len(names) > 3 else ""
    return (
        f"; what has a value in the file is a constant ({_list(names[:3])}{more}), and an input "
        "where it is taken out of graph.initializer"
    )


def _list(names: Any) -> str:
    return ", ".join(repr(name) for name in names) or "none"


def _fitting(port: Any, value: Any) -> npt.NDArray[Any]:
    if port.dtype not in DTYPES:
        raise ModelError(
            f"input {port.name!r} of the ONNX model takes text, and the runtime has numbers alone: "
            "export the part of the model behind what turns text into numbers"
        )
    array = to_numpy(value)
    if array.dtype.kind not in "fiub":
        raise DataError(
            f"input {port.name!r} must be an array of numbers. Received: {type(value).__name__}"
        )
    wanted = port.shape
    fits = wanted is None or (
        len(wanted) == array.ndim
        and all(w in (None, n) for w, n in zip(wanted, array.shape, strict=True))
    )
    if not fits:
        shape = tuple("any" if n is None else n for n in wanted or ())
        raise DataError(
            f"the sample does not fit input {port.name!r} of the ONNX model: it takes the shape "
            f"{shape}. Received: {array.shape}"
        )
    dtype = torch.zeros(0, dtype=DTYPES[port.dtype]).numpy().dtype
    return np.array(array, dtype)
