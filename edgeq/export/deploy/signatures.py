"""Several signatures in one file: each is exported by itself, then the files are merged.

Knows how to tell such a call from others and how to take it apart, nothing of an export's stages.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, cast

from edgeq.errors import DataError, EdgeqError, ModelError, VerificationError
from edgeq.export.deploy.merge_files import merge, signature_keys, split
from edgeq.export.edge_model import EdgeModel
from edgeq.export.frontends import tensorflow, tflite
from edgeq.files import write_whole
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.recipe import as_recipe
from edgeq.report.signature_reports import SignatureReports
from edgeq.runtime.benchmark import random_sample
from edgeq.runtime.file_check import remember
from edgeq.runtime.session import Session

_P = ParamSpec("_P")
_JOB = "edgeq.export.deploy.signatures:check_alike"


@dataclass(frozen=True)
class MultiSignatureModel:
    """Verified integer models that share one file.

    Attributes:
        tflite: The .tflite file, with a signature for each of them.
        signatures: Each by its key, as it would be in a file of its own.
    """

    tflite: bytes
    signatures: Mapping[str, EdgeModel]

    def __repr__(self) -> str:
        keys = ", ".join(map(repr, self.signatures))
        return f"MultiSignatureModel(signatures [{keys}], {len(self.tflite) / 1000:,.1f} kB)"

    @property
    def report(self) -> SignatureReports:
        """The report of each signature."""
        reports = {key: edge_model.report for key, edge_model in self.signatures.items()}
        return SignatureReports(len(self.tflite), reports)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the .tflite file, whole or not at all, and returns its path.

        A file that is there is replaced.
        """
        return write_whole(path, self.tflite)

    def session(
        self, signature: str, delegate: str = "xnnpack", threads: int | None = None
    ) -> Session:
        """A signature of the file, loaded on this machine's interpreter."""
        return Session(self.tflite, delegate, threads, signature=signature, trusted=True)


def by_signature(export: Callable[_P, EdgeModel]) -> Callable[_P, EdgeModel | Any]:
    """Lets `export` take models by signature key as well, and then return `MultiSignatureModel`.

    Which of the two it returns cannot be told from types: a mapping of data is by input name or by
    signature key, as the model has it.
    """
    export_one: Callable[..., EdgeModel] = export

    @functools.wraps(export)
    def export_any(
        model: object, rep_dataset: object, **settings: Any
    ) -> EdgeModel | MultiSignatureModel:
        models = _by_key(model, rep_dataset)
        if models is None:
            return export_one(model, rep_dataset, **settings)
        data = cast("Mapping[str, object]", rep_dataset)
        return _merged({
            key: _exported(export_one, key, each, data[key], _settings_of(key, models, settings))
            for key, each in models.items()
        })  # fmt: skip

    return cast("Callable[_P, EdgeModel | Any]", export_any)


def _exported(
    export: Callable[..., EdgeModel], key: str, model: object, data: object, settings: Any
) -> EdgeModel:
    # What several signatures share has to be rounded alike, whatever each one's data is.
    recipe = as_recipe(settings.pop("recipe", "auto")).with_rounding("nearest")
    try:
        return export(model, data, recipe=recipe, **settings)
    except EdgeqError as error:
        raise type(error)(f"signature {key!r}: {error}") from None


def _by_key(model: object, rep_dataset: object) -> Mapping[str, object] | None:
    """The model of each signature; None where the model is a single one."""
    if isinstance(model, Mapping) and model:
        _check_keys(model, rep_dataset)
        return model
    if not isinstance(rep_dataset, Mapping) or not tflite.handles(model):
        return None
    if tensorflow.handles(model):
        return None
    with Worker() as worker:
        content = tflite.read_file(model, worker)
    keys = signature_keys(content)
    return split(content) if len(keys) > 1 and set(keys) == set(rep_dataset) else None


def _check_keys(models: Mapping[Any, object], data: object) -> None:
    if not all(isinstance(key, str) and key and "\0" not in key for key in models):
        raise ModelError(
            f"models in a mapping are by signature key, which is text. Received: {_listed(models)}"
        )
    if not isinstance(data, Mapping):
        raise DataError(
            "models by signature key need representative data by the same keys, "
            f"{_listed(models)}. Received: {type(data).__name__}"
        )
    if set(models) != set(data):
        raise DataError(
            "models and representative data must have the same signature keys: the models have "
            f"{_listed(models)}, the data {_listed(data) or 'none'}"
        )


def _listed(keys: Mapping[Any, object]) -> str:
    return ", ".join(map(str, keys))


def _settings_of(
    key: str, models: Mapping[str, object], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Options of one signature: those for all, and its own of those given by key."""
    found = {}
    for name, value in settings.items():
        if not (isinstance(value, Mapping) and value and set(value) <= set(models)):
            found[name] = value
        elif key in value:
            found[name] = value[key]
    return found


def _merged(made: Mapping[str, EdgeModel]) -> MultiSignatureModel:
    singles = {key: edge_model.tflite for key, edge_model in made.items()}
    tflite = merge(singles)
    try:
        with Worker(("edgeq.runtime.session",)) as worker:
            worker.call(_JOB, tflite, singles)
    except (JobCrashed, JobFailed) as error:
        raise VerificationError(
            f"the runtime {error.reason} when it ran the file of all signatures; export each "
            "signature to a file of its own"
        ) from None
    remember(tflite)
    return MultiSignatureModel(bytes(tflite), made)


def check_alike(tflite: bytes, singles: Mapping[str, bytes]) -> None:
    """Job: runs each signature of a file, and the file with that signature alone.

    Raises:
        VerificationError: They do not compute the same, bit for bit.
    """
    for key, single in singles.items():
        with (
            Session(single, threads=1, trusted=True) as own,
            Session(tflite, threads=1, signature=key, trusted=True) as one,
        ):
            sample = dict(zip(own.input_names, random_sample(own.io), strict=True))
            expected, found = own.run(sample), one.run(sample)
        same = expected.keys() == found.keys() and all(
            found[name].tobytes() == array.tobytes() for name, array in expected.items()
        )
        if not same:
            raise VerificationError(
                f"signature {key!r} computes other numbers in the file of all signatures than in "
                "one of its own; export it to a file of its own"
            )
