"""Types of what edgeq's functions take, for readers and type checkers.

Frameworks that are not installed are described by what edgeq uses of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

import numpy.typing as npt


class TorchProgram(Protocol):
    """A `torch.export.ExportedProgram`."""

    @property
    def graph_signature(self) -> Any: ...


class FlaxModule(Protocol):
    """A linen module, of which `params` are given beside it."""

    def apply(self, variables: Any, *args: Any) -> Any: ...


class OnnxModel(Protocol):
    """An `onnx.ModelProto`."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - the name that protocol buffers have


FilePath: TypeAlias = str | os.PathLike[str]
"""The path of a file or folder."""

ModelLike: TypeAlias = (
    FilePath
    | bytes
    | Callable[..., Any]
    | TorchProgram
    | FlaxModule
    | OnnxModel
    | Mapping[str, Any]
)
"""A model of any framework, a file or its bytes, or a mapping of such by signature key."""

DataLike: TypeAlias = (
    npt.NDArray[Any] | Mapping[str, Any] | Iterable[Any] | Callable[[], Iterable[Any]]
)
"""Representative inputs: arrays of samples, or something that gives samples one by one."""

PortType: TypeAlias = Literal["float32", "int8", "uint8", "int16"]
"""What an app passes to an input, or gets from an output."""

PortRange: TypeAlias = tuple[float, float]
"""Lowest and highest real number of an input or output."""

PortLike: TypeAlias = (
    PortType
    | PortRange
    | tuple[PortType, PortRange]
    | Mapping[str, PortType | PortRange | tuple[PortType, PortRange]]
)
"""Type, range or both of all inputs or outputs, or of each by its name."""

ImageLayoutName: TypeAlias = Literal["nhwc"]
"""How images are laid out in the exported file."""

Engine: TypeAlias = Literal["local", "ray"]
"""Where samples run."""
