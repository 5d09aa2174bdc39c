"""Front ends: each turns one kind of model into a `LiteModel` with two functions.

`handles(model)` tells whether the model is of its kind without importing the framework;
`trace(model, ...)` does the work.
"""

from __future__ import annotations

from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import ModelError
from edgeq.export.frontends import flax, jax, keras, onnx, tensorflow, tflite
from edgeq.export.frontends import torch as pytorch
from edgeq.export.importing import SizeSource
from edgeq.isolation import Worker
from edgeq.model import LiteModel


def trace(
    model: object, sample: object, data: RepDataset, worker: Worker, params: object = None
) -> LiteModel:
    """Traces a model of any supported kind.

    Args:
        model: The user's model; one that was traced before is taken as it is.
        sample: An input to trace with; None takes the first representative sample.
        data: The representative data.
        worker: The converter's child process.
        params: Parameters of a JAX function, or variables of a linen module.

    Raises:
        ModelError: No front end knows the model, or its own cannot trace it.
    """
    if isinstance(model, LiteModel):
        return model
    takes_params = flax.handles(model) or _is_jax(model)
    if params is not None and not takes_params:
        raise ModelError(
            "params are for JAX functions and linen modules, other models have theirs in them. "
            f"Received: {_kind(model)}"
        )
    if tflite.handles(model) and not tensorflow.handles(model):
        return tflite.trace(model, SizeSource(sample, data), worker)
    given = data.first_sample() if sample is None else sample
    if onnx.handles(model):
        return onnx.trace(model, given, worker)
    if keras.handles(model):
        return keras.trace(model, given, worker)
    if pytorch.handles(model):
        return pytorch.trace(model, given, worker)
    if tensorflow.handles(model):
        return tensorflow.trace(model, given, worker)
    if pytorch.is_function_of(model, given):
        return pytorch.trace(model, given, worker)
    if flax.handles(model):
        return flax.trace(model, params, given, worker)
    if jax.handles(model):
        return jax.trace(model, params, given, worker)
    raise ModelError(
        "the model must be a PyTorch nn.Module or ExportedProgram, a JAX function, a Flax module, "
        "a Keras 3 model, a tf.function, tf.Module or SavedModel folder, an onnx.ModelProto, the "
        "path of a .keras, .h5, .pt2 or TorchScript file, or the path or bytes of an .onnx or "
        f"float .tflite file. Received: {_kind(model)}"
    )


def _is_jax(model: object) -> bool:
    others = (tflite, keras, pytorch, tensorflow, onnx)
    return jax.handles(model) and not any(other.handles(model) for other in others)


def _kind(model: object) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"
