"""The flatbuffer view under atheris, which keeps the mutants that reach new lines of it.

A script of its own: atheris owns the process. Arguments are those of libFuzzer, a folder of files
to start from among them. Ends with another code than 0 at the first error that is not edgeq's own.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["edgeq.flatbuffer", "ai_edge_litert.schema_py_generated"]):
    from edgeq.flatbuffer import pack, parse, unpack, with_signature

from edgeq.errors import ModelError


def read(data: bytes) -> None:
    """Reads a file, gives it a signature and writes it again."""
    with contextlib.suppress(ModelError):
        for graph in parse(data).graphs:
            for tensor in graph.tensors:
                _ = tensor.data
        with_signature(data)
        pack(unpack(data))


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
