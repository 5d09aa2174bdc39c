"""The options that name a model's states, and how data files become sequences for them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from edgeq.data.readers import FileData, open_data
from edgeq.data.readers.arrays import ArrayFiles, ArrayRows
from edgeq.data.sequences import Sequences
from edgeq.errors import DataError

States = Annotated[
    list[str] | None,
    typer.Option(
        "--state", metavar="INPUT=OUTPUT",
        help="An input that is a state, and the output that it is fed with in the next step, by "
        "name or place; may be repeated. --data then holds sequences: .npy (sequences, steps, "
        "...), .npz of such arrays, a folder of .npy (steps, ...), or module:function.",
    ),
]  # fmt: skip


StateStart = Annotated[
    Path | None,
    typer.Option(
        help="What sequences begin with in the states of --state: .npz, an array for each by the "
        "name of its input; by default zeros. A model that is traced needs it for the shapes."
    ),
]


def with_states(data: Any, states: list[str] | None, start: Path | None) -> Any:
    """Data as sequences of a model with states; as they are where none is named.

    Raises:
        DataError: The options or the data are no such thing.
    """
    if not states:
        if start is not None:
            raise DataError("--state-start needs --state INPUT=OUTPUT, which names the states")
        return _called(data)
    named = dict(map(_state, states))
    if len(named) < len(states):
        raise DataError("--state names an input twice; each is fed with one output")
    begin = None if start is None else {_key(name): a for name, a in _arrays(start).items()}
    if isinstance(data, FileData):
        return Sequences(_FileSequences(data), named, begin)
    return Sequences(_returned(data), named, begin).repeatable()


def _state(text: str) -> tuple[str | int, str | int]:
    """Input and output of `"h_in=h_out"`."""
    taken, sign, given = (part.strip() for part in text.partition("="))
    if not (taken and sign and given):
        raise DataError(f"--state is INPUT=OUTPUT, such as h_in=h_out. Received: {text!r}")
    return _key(taken), _key(given)


def _key(text: str) -> str | int:
    """A name, or a place where it is a number."""
    return int(text) if text.isdecimal() else text


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a `.npz` file, whole."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"--state-start is a .npz file with an array a state. Received: {path}")
    rows = list(open_data(path))
    names = rows[0] if rows and isinstance(rows[0], dict) else {}
    return {name: np.concatenate([row[name] for row in rows]) for name in names}


def _called(data: Any) -> Any:
    """What a function gives where that is `Sequences`; any other data as they are."""
    if not inspect.isfunction(data) or inspect.isgeneratorfunction(data):
        return data
    made = data()
    return made if isinstance(made, Sequences) else data


def _returned(data: Any) -> Iterable[Any]:
    """The sequences that a function gives, or that stand in its place."""
    made = data() if callable(data) else data
    if isinstance(made, Sequences):
        raise DataError("--data gives edgeq.Sequences, which name their states: leave --state out")
    if not isinstance(made, Iterable):
        raise DataError(
            "with --state, the function of --data returns the sequences, each an array (steps, "
            f"...) or the samples of one. Received: {type(made).__name__}"
        )
    return made


class _FileSequences:
    """Sequences in files, read one at a time."""

    def __init__(self, files: FileData) -> None:
        if not isinstance(files, ArrayRows | ArrayFiles):
            raise DataError(
                "with --state, --data is .npy (sequences, steps, ...), .npz of such arrays, a "
                "folder of .npy files (steps, ...), or module:function that gives the sequences"
            )
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Any]:
        whole = isinstance(self._files, ArrayFiles)
        for number, item in enumerate(self._files):
            columns = item if isinstance(item, Mapping) else {"": item}
            steps = {name: a if whole else a[0] for name, a in columns.items()}
            flat = [name for name, array in steps.items() if not array.ndim]
            if flat:
                raise DataError(
                    f"sequence {number}: with --state, data have an axis of steps behind that of "
                    f"sequences. Received: an array {columns[flat[0]].shape[1:]}"
                )
            yield steps if isinstance(item, Mapping) else steps[""]
