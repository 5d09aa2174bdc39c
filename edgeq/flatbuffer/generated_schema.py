"""Owns the generated flatbuffer schema: finds it, and names its ops, types and activations.

The only module that imports it. Knows nothing of what a file holds.
"""

from __future__ import annotations

import contextlib
import importlib.util
from typing import Any

from edgeq.flatbuffer.table_reader import with_quick_tables


def _load_schema() -> Any:
    """A copy of the generated schema of its own; None on a board that has only the runtime."""
    for name in ("ai_edge_litert", "tensorflow.lite.python"):
        with contextlib.suppress(ImportError):
            spec = importlib.util.find_spec(f"{name}.schema_py_generated")
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                module.flatbuffers = with_quick_tables()  # type: ignore[attr-defined]
                return module
    return None


schema = _load_schema()
"""The generated schema, for those who build or edit object trees."""

IDENTIFIER = b"TFL3"


def _names(enumeration: str) -> dict[int, str]:
    values = vars(getattr(schema, enumeration, object))
    return {value: name for name, value in values.items() if isinstance(value, int)}


OP_NAMES = _names("BuiltinOperator")

TYPE_NAMES = {code: name.lower() for code, name in _names("TensorType").items()}

ACTIVATION_NAMES = _names("ActivationFunctionType")


def builtin_name(code: int) -> str:
    """The builtin operator's name for its code; the code itself where no schema names it."""
    return OP_NAMES.get(code, f"op {code}")
