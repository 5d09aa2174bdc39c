"""Front ends: each turns one kind of model into a `FloatModel` with two functions.

`handles(model)` tells whether the model is of its kind without importing the framework;
`trace(model, ...)` does the work.
"""

from __future__ import annotations

from edgeq.calibrate.data import RepDataset
from edgeq.errors import ModelError
from edgeq.export.frontends import tflite
from edgeq.export.frontends import torch as pytorch
from edgeq.isolation import Worker
from edgeq.model import FloatModel


def trace(model: object, sample: object, data: RepDataset, worker: Worker) -> FloatModel:
    """Traces a model of any supported kind.

    Args:
        model: The user's model.
        sample: An input to trace with; None takes the first representative sample.
        data: The representative data.
        worker: The converter's child process.

    Raises:
        ModelError: No front end knows the model, or its own cannot trace it.
    """
    if tflite.handles(model):
        return tflite.trace(model, worker)
    if pytorch.handles(model):
        return pytorch.trace(model, data.first_sample() if sample is None else sample, worker)
    raise ModelError(
        "the model must be a PyTorch nn.Module or ExportedProgram, or the path or bytes of a float "
        f".tflite file. Received: {type(model).__module__}.{type(model).__qualname__}"
    )
