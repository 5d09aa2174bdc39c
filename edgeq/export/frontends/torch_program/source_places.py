"""Where in the user's module an op of a traced program comes from: layer path and line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_REPEATED_CALL = re.compile(r"@\d+$")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+\n\s*(.*)')
_PACKAGE = Path(__file__).parents[3]


def layer_path(node: Any) -> str:
    """Path of the module that a node comes from, `features.0.conv`, or the node's own name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    path = _REPEATED_CALL.sub("", path.removeprefix("L['self']").lstrip("."))
    # A compiled module hides the user's own behind this name.
    parts = [part for part in path.split(".") if part and part != "_orig_mod"]
    return ".".join(parts) or traced_name(node)


def traced_name(node: Any) -> str:
    """The name that a node, or the one it was made from, had when the model was traced."""
    name, history = str(node.name), node.meta.get("from_node", [])
    while history:
        name, history = str(history[0].name), history[0].from_node
    return name


def source_line(node: Any) -> str:
    """The line of the user's code that a node comes from, ` (model.py:12: x = x.sort())`, or ``."""
    return line_in(node.meta.get("stack_trace") or "")


def line_in(traceback: str) -> str:
    """The innermost line of a traceback that is the user's, as errors show it."""
    import torch

    packages = (_PACKAGE, Path(torch.__file__).parent)
    for file, line, code in reversed(_FRAME.findall(traceback)):
        if "litert_torch" not in file and not any(p in Path(file).parents for p in packages):
            return f" ({Path(file).name}:{line}: {code.strip()[:100]})"
    return ""


def where(node: Any) -> str:
    """How errors name a node: layer path and line of source."""
    return f"{layer_path(node)}{source_line(node)}"
