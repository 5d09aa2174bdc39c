"""Several signatures in one file: each is exported beside the others, then the files are merged.

Knows how to tell such a call from others and how to take it apart, nothing of an export's stages.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edgeq.data.buckets import Buckets, pads_by_name
from edgeq.errors import DataError, EdgeqError, ModelError, VerificationError
from edgeq.export.deploy.linked_ports import Shared, links_of
from edgeq.export.deploy.merge_files import merge, signature_keys, split
from edgeq.export.edge_model import EdgeModel
from edgeq.export.frontends import tensorflow, tflite
from edgeq.files import write_whole
from edgeq.flatbuffer import pack, unpack
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.ports import Link, write_links, write_pads
from edgeq.report.signature_reports import SignatureReports
from edgeq.runtime.benchmark import random_sample
from edgeq.runtime.file_check import remember
from edgeq.runtime.session import Session

_JOB = "edgeq.export.deploy.signatures:check_alike"


@dataclass(frozen=True)
class MultiSignatureModel:
    """Verified integer models that share one file.

    Attributes:
        tflite: The .tflite file, with a signature for each of them.
        signatures: Each by its key, as it would be in a file of its own.
        links: Which of them take what others give, such as caches.
    """

    tflite: bytes
    signatures: Mapping[str, EdgeModel]
    links: tuple[Link, ...] = ()

    def __repr__(self) -> str:
        keys = ", ".join(map(repr, self.signatures))
        return f"MultiSignatureModel(signatures [{keys}], {len(self.tflite) / 1000:,.1f} kB)"

    @property
    def report(self) -> SignatureReports:
        """The report of each signature."""
        reports = {key: edge_model.report for key, edge_model in self.signatures.items()}
        return SignatureReports(len(self.tflite), reports, self.links)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the .tflite file, whole or not at all, and returns its path.

        A file that is there is replaced.
        """
        return write_whole(path, self.tflite)

    def session(
        self, signature: str | None = None, delegate: str = "xnnpack", threads: int | None = None
    ) -> Session:
        """A signature of the file, loaded on this machine's interpreter.

        Without a key it is the first, or, of buckets, for each run the shortest that holds what is
        passed.
        """
        return Session(self.tflite, delegate, threads, signature=signature, trusted=True)


def by_signature(
    begin: Callable[..., Callable[[], EdgeModel]],
    model: object,
    rep_dataset: object,
    settings: Mapping[str, Any],
) -> EdgeModel | MultiSignatureModel:
    """One model, or a file of several where they come by signature key.

    Args:
        begin: Takes model, data, what the models have in common, and options; gives what finishes
            the export, to be called when all have begun.
        model: As for `export`.
        rep_dataset: As for `export`.
        settings: Options of `export`.

    Raises:
        EdgeqError: As for `export`; of several, with the signature's key.
    """
    shared, pad = Shared(), None
    if isinstance(rep_dataset, Buckets):
        model, pad = _in_each(model, rep_dataset), rep_dataset.pad
        rep_dataset = rep_dataset.by_key()
    models = _by_key(model, rep_dataset)
    if models is None:
        return begin(model, rep_dataset, shared, **settings)()
    data, begun = cast("Mapping[str, object]", rep_dataset), {}
    for key, each in models.items():
        own = _settings_of(key, models, settings)
        with _naming(key):
            begun[key] = begin(each, data[key], shared if pad is None else shared.apart(), **own)
    made = {}
    for key, finish in begun.items():
        with _naming(key):
            made[key] = finish()
    return _merged(made, pad)


def _in_each(model: object, buckets: Buckets) -> dict[str, object]:
    """A model by the key of each bucket."""
    if isinstance(model, Mapping):
        raise DataError(
            f"Buckets are data of one model. Received: models by signature key, {_listed(model)}"
        )
    return dict.fromkeys(buckets.lengths, model)


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Puts a signature's key in front of errors."""
    try:
        yield
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


def _merged(
    made: Mapping[str, EdgeModel], pad: float | Mapping[Any, float] | None
) -> MultiSignatureModel:
    """The file of all signatures; with `pad` they are buckets."""
    singles = {key: edge_model.tflite for key, edge_model in made.items()}
    tree = unpack(merge(singles))
    links: tuple[Link, ...] = ()
    if pad is not None:
        first, *_ = made.values()
        write_pads(tree, pads_by_name(pad, [port.name for port in first.io.inputs]))
    else:
        links = links_of({key: (each.rewritten, each.plan) for key, each in made.items()})
        write_links(tree, links)
    tflite = pack(tree)
    try:
        with Worker(("edgeq.runtime.session",)) as worker:
            worker.call(_JOB, tflite, singles)
    except (JobCrashed, JobFailed) as error:
        raise VerificationError(
            f"the runtime {error.reason} when it ran the file of all signatures; export each "
            "signature to a file of its own"
        ) from None
    remember(tflite)
    return MultiSignatureModel(bytes(tflite), made, links)


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
