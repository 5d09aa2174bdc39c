"""Models of any kind become `LiteModel`s that are only to be run, float or integer."""

from __future__ import annotations

from collections.abc import Iterable

from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import ModelError
from edgeq.export import frontends
from edgeq.export.edge_model import EdgeModel
from edgeq.export.frontends import tflite
from edgeq.export.importing import SizeSource
from edgeq.isolation import Worker
from edgeq.model import LiteModel


def worker_for(models: Iterable[object]) -> Worker:
    """The child that loads models first; the converter is only needed to trace."""
    if all(isinstance(m, EdgeModel | LiteModel) or tflite.handles(m) for m in models):
        return Worker(("edgeq.runtime.session",))
    return start_converter()


def load(what: str, model: object, data: RepDataset, worker: Worker) -> LiteModel:
    """A model as it will be run; of an `EdgeModel`, the exported file.

    Args:
        what: How errors name it.
        model: An `EdgeModel`, a `LiteModel`, or what `export` takes.
        data: Samples to trace a module with.
        worker: The child of `worker_for`.

    Raises:
        ModelError: It cannot be read or traced.
    """
    if isinstance(model, EdgeModel):
        return LiteModel(model.tflite, "edgeq")
    if isinstance(model, LiteModel):
        return model
    try:
        if tflite.handles(model):
            return tflite.load(model, SizeSource(None, data), worker)
        return frontends.trace(model, None, data, worker)
    except ModelError as error:
        raise type(error)(f"{what}: {error}") from None
