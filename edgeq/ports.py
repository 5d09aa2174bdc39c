"""`IO`: what an app passes to a .tflite file and gets from it, by name, shape, type and scale.

The one place where real numbers become what the file's ports hold, and back, and where a file says
which outputs are fed back to which inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeq.errors import DataError, ModelError
from edgeq.files import Content
from edgeq.flatbuffer import Graph, parse_tree, unpack
from edgeq.flatbuffer.metadata_entries import entry_content, put_entry
from edgeq.foreign.documents import DocumentError, parse_json
from edgeq.qtypes import QParams, dequantize, quantize

Array = npt.NDArray[Any]
States = tuple[tuple[str, str], ...]
"""`(input, output)` of each state: what the output gives is fed to the input of the next run."""

STATES_ENTRY = b"edgeq_states/"
"""Begins the name of the metadata entry with the states of a signature, whose key follows: a JSON
object of output names by input name."""

LINKS_ENTRY = b"edgeq_links"
"""Name of the metadata entry of a file with several signatures, of which one takes what another
gives: a JSON list of `Link.to_dict`."""

BUCKETS_ENTRY = b"edgeq_buckets"
"""Name of the metadata entry of a file whose signatures are one model for several lengths: a JSON
object with what fills up each input, in real numbers by name."""


@dataclass(frozen=True)
class Port:
    """One input or output of a file.

    Attributes:
        name: Name in the signature.
        shape: Shape, batch included.
        dtype: numpy dtype name of what the app passes or gets.
        qparams: How real numbers are stored in it; None where they are stored as they are.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    qparams: QParams | None = None

    def quantize(self, real: Array) -> Array:
        """Converts real numbers to what the port stores."""
        return real if self.qparams is None else quantize(real, self.qparams)

    def dequantize(self, held: Array) -> Array:
        """The real numbers for what the port holds, float32 where it is quantized."""
        return held if self.qparams is None else dequantize(held, self.qparams)

    @property
    def real_dtype(self) -> str:
        """The dtype in real numbers: float32 where integers have a scale."""
        return self.dtype if self.qparams is None else "float32"

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON; scale and zero point are None where it is not quantized."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "scale": self.qparams and self.qparams.scale[0],
            "zero_point": self.qparams and self.qparams.zero_point[0],
        }


@dataclass(frozen=True)
class IO:
    """Inputs and outputs of a file, in order, and which of them are a state's two ends."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: States = ()

    def quantize(self, sample: Mapping[str, Array]) -> tuple[Array, ...]:
        """Converts real numbers by input name to what the inputs store, in the file's order."""
        return tuple(port.quantize(sample[port.name]) for port in self.inputs)

    def dequantize(self, outputs: Sequence[Array]) -> dict[str, Array]:
        """Real numbers by output name for what the outputs hold, in the file's order."""
        return {p.name: p.dequantize(a) for p, a in zip(self.outputs, outputs, strict=True)}

    def to_dict(self) -> dict[str, list[dict[str, object]]]:
        """Plain values, ready for JSON."""
        return {
            "inputs": [port.to_dict() for port in self.inputs],
            "outputs": [port.to_dict() for port in self.outputs],
            "states": [{"input": taken, "output": given} for taken, given in self.states],
        }

    def state_places(self, states: Mapping[Any, Any]) -> tuple[tuple[int, int], ...]:
        """Places of the input and the output of each state.

        Args:
            states: The output of each input that is a state, both by name or by place.

        Raises:
            DataError: There is no such input or output, or an output does not fit its input.
        """
        found = tuple(
            (_place(self.inputs, taken, "input"), _place(self.outputs, given, "output"))
            for taken, given in states.items()
        )
        for number, (taken, given) in enumerate(found):
            _check_fits(self.inputs[taken], self.outputs[given])
            if taken in (known for known, _ in found[:number]):
                raise DataError(f"states: input {self.inputs[taken].name!r} is there twice")
        return found


@dataclass(frozen=True)
class Link:
    """Ports of a file's signatures that hold the same: what each output gives, each input takes.

    Attributes:
        outputs: `(signature key, name)` of each output.
        inputs: The same of the inputs.
        qparams: The one way in which all of them are integers within the file; None where they
            are float in some signature, or differ.
        is_alike: Whether all are integers of one scale, or all are float.
    """

    outputs: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str], ...]
    qparams: QParams | None
    is_alike: bool

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON."""
        return {
            "outputs": [{"signature": key, "name": name} for key, name in self.outputs],
            "inputs": [{"signature": key, "name": name} for key, name in self.inputs],
            "scale": self.qparams and self.qparams.scale[0],
            "zero_point": self.qparams and self.qparams.zero_point[0],
        }

    def text(self) -> str:
        """A sentence that says what is fed to what, and how."""
        how = "in real numbers"
        if self.qparams is not None:
            how = f"without conversion: {self.qparams.describe()} on all sides"
        elif not self.is_alike:
            how = (
                "with a conversion: kernels, rules or the search have it float, or an integer of "
                "another scale, in one of them"
            )
        return f"{_by_name(self.outputs)} is fed to {_by_name(self.inputs)} {how}"


def _by_name(ports: Sequence[tuple[str, str]]) -> str:
    keys: dict[str, list[str]] = {}
    for key, name in ports:
        keys.setdefault(name, []).append(key)
    return ", ".join(f"{name!r} of {' and '.join(of)}" for name, of in keys.items())


def _place(ports: Sequence[Port], named: object, side: str) -> int:
    """The place of a port by its name or place."""
    names = [port.name for port in ports]
    if isinstance(named, str) and named in names:
        return names.index(named)
    if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < len(ports):
        return named
    listed = ", ".join(f"{name!r} ({place})" for place, name in enumerate(names))
    raise DataError(f"states: the model has no {side} {named!r:.80}; it has {listed or 'none'}")


def _check_fits(taken: Port, given: Port) -> None:
    if (taken.shape, taken.real_dtype) != (given.shape, given.real_dtype):
        raise DataError(
            f"states: what is fed back must have one form: input {taken.name!r} is "
            f"{taken.real_dtype} {taken.shape}, and output {given.name!r} {given.real_dtype} "
            f"{given.shape}"
        )


def read_io(tflite: Content) -> IO:
    """The inputs and outputs of a file's first signature, in the order of its graph.

    Raises:
        ModelError: Not a .tflite file, or damaged.
    """
    tree = unpack(tflite)
    model = parse_tree(tree, len(tflite))
    graph, signature = model.graphs[0], model.signatures[0]
    return IO(
        _ports(graph, signature.inputs, graph.inputs),
        _ports(graph, signature.outputs, graph.outputs),
        _states(tree, signature.key),
    )


def read_states(tflite: Content, key: str | None = None) -> States:
    """The states of a file's signature, of its first one without a key.

    Raises:
        ModelError: Not a .tflite file, or it or its entry is damaged.
    """
    if key is None:
        return read_io(tflite).states
    return _states(unpack(tflite), key)


def _states(tree: Any, key: str) -> States:
    """The states of a signature of an object tree; empty where the file names none."""
    content = entry_content(tree, STATES_ENTRY + key.encode())
    try:
        entry = {} if content is None else parse_json(content.decode())
        states = tuple(entry.items())
    except (DocumentError, UnicodeDecodeError, AttributeError) as error:
        raise _damaged_states(str(error)) from None
    if not all(isinstance(given, str) for _, given in states):
        raise _damaged_states("an output's name is no text")
    return states


def _damaged_states(why: str) -> ModelError:
    return ModelError(
        f"the states in the file's metadata ({STATES_ENTRY.decode()}...) cannot be read: {why}. "
        "Export the model again"
    )


def read_pads(tflite: Content) -> dict[str, float] | None:
    """What fills up the inputs of a file whose signatures are buckets; None of any other file.

    Raises:
        ModelError: Not a .tflite file, or it or its entry is damaged.
    """
    content = entry_content(unpack(tflite), BUCKETS_ENTRY)
    if content is None:
        return None
    try:
        return {str(name): float(value) for name, value in parse_json(content.decode()).items()}
    except (DocumentError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise ModelError(
            f"the buckets in the file's metadata ({BUCKETS_ENTRY.decode()}) cannot be read: "
            f"{error}. Export the model again"
        ) from None


def write_pads(tree: Any, pads: Mapping[str, float]) -> None:
    """Says in an object tree that its signatures are buckets, and what fills up each input."""
    put_entry(tree, BUCKETS_ENTRY, json.dumps(dict(pads), separators=(",", ":")).encode())


def write_links(tree: Any, links: Sequence[Link]) -> None:
    """Says in an object tree which signatures take what others give, if there are such."""
    if links:
        content = json.dumps([link.to_dict() for link in links], ensure_ascii=False)
        put_entry(tree, LINKS_ENTRY, content.encode())


def write_states(tree: Any, states: States) -> None:
    """Puts the states of an object tree's first signature into its metadata, if there are any."""
    if states:
        content = json.dumps(dict(states), separators=(",", ":"), ensure_ascii=False).encode()
        put_entry(tree, STATES_ENTRY + bytes(tree.signatureDefs[0].signatureKey), content)


def _ports(
    graph: Graph, named: Sequence[tuple[str, int]], order: tuple[int, ...]
) -> tuple[Port, ...]:
    tensors = [(name, graph.tensors[i]) for name, i in named]
    tensors.sort(key=lambda pair: order.index(pair[1].index))
    return tuple(Port(name, t.shape, t.dtype, t.qparams) for name, t in tensors)
