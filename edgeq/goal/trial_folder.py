"""`TrialFolder`: finished trials on disk, so that a search that was stopped goes on where it was.

A trial is a file of its own, named by its recipe, that appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeq.data.rep_dataset import Sample
from edgeq.errors import DataError
from edgeq.files import write_whole
from edgeq.foreign.documents import DocumentError, parse_json, read_text
from edgeq.recipe import Recipe
from edgeq.report.search_result import Trial

HEADER = "search.json"
"""What the trials are of."""


class TrialFolder:
    """Trials that are finished; without a folder, in memory alone.

    Args:
        path: The folder, which is made where it is missing; None remembers nothing after the end.
        what: What the trials are of: a folder of others is refused.

    Raises:
        DataError: The folder holds trials of another search, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None, what: Mapping[str, Any]) -> None:
        self._path = None if path is None else Path(path)
        if self._path is not None:
            self._check(self._path / HEADER, json.dumps(what, indent=2, sort_keys=True) + "\n")

    def find(self, recipe: Recipe) -> Trial | None:
        """The trial of a recipe, if it was finished.

        Raises:
            DataError: Its file cannot be read, or holds something else.
        """
        path = self._file(recipe)
        if path is None or not path.exists():
            return None
        return Trial.from_json(_read(path))

    def keep(self, recipe: Recipe, trial: Trial) -> None:
        """Remembers a finished trial."""
        path = self._file(recipe)
        if path is not None:
            write_whole(path, trial.to_json().encode())

    def _file(self, recipe: Recipe) -> Path | None:
        digest = hashlib.sha256(recipe.to_json().encode()).hexdigest()[:16]
        return None if self._path is None else self._path / f"trial-{digest}.json"

    def _check(self, header: Path, wanted: str) -> None:
        if not header.exists():
            header.parent.mkdir(parents=True, exist_ok=True)
            write_whole(header, wanted.encode())
            return
        try:
            known, asked = parse_json(_read(header)), json.loads(wanted)
        except DocumentError as error:
            raise DataError(f"{header} is no file of a search: {error}") from None
        if known != asked:
            names = [k for k in asked if not isinstance(known, dict) or known.get(k) != asked[k]]
            raise DataError(
                f"{header.parent} holds trials of another search ({', '.join(names)} differ): name "
                "another folder, or delete this one"
            )


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, DocumentError) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def digest_of(samples: Iterable[Sample]) -> str:
    """SHA-256 of samples: of their shapes, types and values."""
    found = hashlib.sha256()
    for sample in samples:
        for array in sample:
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
    return found.hexdigest()
