"""The table of ONNX ops: each is one small function of PyTorch tensors, found by its name.

Knows how an op's function is declared and found, not what the functions do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.errors import UnsupportedOpError

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own ops."""

Known = npt.NDArray[Any]
"""Numbers that are the same for every input."""


@dataclass(frozen=True)
class Node:
    """A node of an ONNX graph.

    Attributes:
        name: Its name, or that of its first output.
        op: Name of its op.
        domain: Domain of its op; empty for ONNX's own.
        version: Version of the opset that it is written in.
        attributes: Values by name: numbers, text, arrays, graphs, and lists of these.
        inputs: Names of the values that it reads; empty where an input is left out.
        outputs: Names of the values that it computes, likewise.
        proto: The node in the file; None of one that was made here.
        is_cut: Whether a size before it was taken from the sample; of another input it may look up
            what lies beyond an end.
    """

    name: str
    op: str
    domain: str
    version: int
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: Any = None
    is_cut: bool = False

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or what stands for it where the node has none."""
        return self.attributes.get(name, default)

    @property
    def where(self) -> str:
        """How errors name it, for example `Conv at /backbone/conv1/Conv`."""
        domain = f"{self.domain}." if self.domain else ""
        return f"{domain}{self.op} at {self.name}"

    def refused(self, why: str) -> UnsupportedOpError:
        """The error for a node that has no form here."""
        return UnsupportedOpError(f"ONNX op {self.where} {why}")


@dataclass(frozen=True)
class Row:
    """An op's function and how it is called.

    Attributes:
        compute: Takes the node and its inputs, None for those left out; returns a tensor or a
            tuple of them, one for each output.
        known: Inputs that must be the same for every input of the model, such as shapes; they come
            as arrays.
        sampled: Inputs that are taken from the sample where they are not the same for every input.
        either: Known inputs that need not be the same for every input: they come as tensors then.
        fixed: Outputs that are the same for every input.
        typed: Inputs of which the type alone is read.
        keeps_grid: Whether its outputs hold numbers of its first input alone, so that what was
            quantized stays so.
        takes_grid: Whether it takes quantized values as the real numbers that they stand for.
    """

    compute: Callable[..., Any]
    known: frozenset[int] = frozenset()
    sampled: frozenset[int] = frozenset()
    either: frozenset[int] = frozenset()
    fixed: frozenset[int] = frozenset()
    typed: frozenset[int] = frozenset()
    keeps_grid: bool = False
    takes_grid: bool = False


_ROWS: dict[tuple[str, str], Row] = {}
_FLOWS: dict[str, Callable[..., Any]] = {}
# Both are filled as the modules of functions are imported.


def op(
    *names: str,
    domain: str = "",
    known: tuple[int, ...] = (),
    sampled: tuple[int, ...] = (),
    either: tuple[int, ...] = (),
    fixed: tuple[int, ...] = (),
    typed: tuple[int, ...] = (),
    keeps_grid: bool = False,
    takes_grid: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares a function as what computes the named ops; see `Row`."""
    row = partial(
        Row,
        known=frozenset((*known, *either)),
        sampled=frozenset(sampled),
        either=frozenset(either),
        fixed=frozenset(fixed),
        typed=frozenset(typed),
        keeps_grid=keeps_grid,
        takes_grid=takes_grid,
    )

    def declare(compute: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _ROWS[domain, name] = row(compute)
        return compute

    return declare


def flow(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares a function as what runs the named ops with the interpreter, as bodies need it."""

    def declare(run: Callable[..., Any]) -> Callable[..., Any]:
        _FLOWS.update(dict.fromkeys(names, run))
        return run

    return declare


def find_flow(node: Node) -> Callable[..., Any] | None:
    """What runs a node with the interpreter; None of one that its row computes."""
    return None if node.domain else _FLOWS.get(node.op)


def find(node: Node) -> Row | None:
    """The row of a node's op; None where there is none."""
    return _ROWS.get((node.domain, node.op))


def axes_of(node: Node, given: Known | None) -> list[int] | None:
    """Axes as an attribute, which older opsets have, or as an input; None where there are none."""
    axes = node.get("axes") if given is None else given
    return None if axes is None else [int(axis) for axis in np.asarray(axes).reshape(-1)]
