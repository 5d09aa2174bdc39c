"""`IO`: what an app passes to a .tflite file and gets from it, by name, shape, type and scale.

The one place where real numbers become what the file's ports hold, and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgeq.files import Content
from edgeq.flatbuffer import Graph, parse
from edgeq.qtypes import QParams, dequantize, quantize

Array = npt.NDArray[Any]


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
    """Inputs and outputs of a file, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

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
        }


def read_io(tflite: Content) -> IO:
    """The inputs and outputs of a file's first signature, in the order of its graph.

    Raises:
        ModelError: Not a .tflite file, or damaged.
    """
    model = parse(tflite)
    graph, signature = model.graphs[0], model.signatures[0]
    return IO(
        _ports(graph, signature.inputs, graph.inputs),
        _ports(graph, signature.outputs, graph.outputs),
    )


def _ports(
    graph: Graph, named: Sequence[tuple[str, int]], order: tuple[int, ...]
) -> tuple[Port, ...]:
    tensors = [(name, graph.tensors[i]) for name, i in named]
    tensors.sort(key=lambda pair: order.index(pair[1].index))
    return tuple(Port(name, t.shape, t.dtype, t.qparams) for name, t in tensors)
