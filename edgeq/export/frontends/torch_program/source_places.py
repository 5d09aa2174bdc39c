"""Where in the user's module an op of a traced program comes from: layer path and line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeq.foreign import code_lines

ANOTHER = "~"
"""Between the name of a layer and the number of a further module that computes a part of it.

PyTorch has `@` there for further calls of one module, and takes modules of such names for one."""

_REPEATED_CALL = re.compile(rf"[@{ANOTHER}]\d+$")
_EXECUTED = re.compile(r"While executing %(\w+)")
_REFUSED = re.compile(r'error: "([^"]*?);*"\("\w+"\("([^"]+)":(\d+):\d+\)\)?\)?: (.+)')

PACKAGES = ("torch", "litert_torch")
"""Whose lines are not the user's."""


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
    return code_lines.line_in(node.meta.get("stack_trace") or "", PACKAGES)


def raised_line(error: BaseException) -> str:
    """The innermost line of the user's that an error came through, as errors show it."""
    return code_lines.raised_line(error, PACKAGES)


def refused_place(message: str, layers: Mapping[str, str]) -> tuple[str, str]:
    """Where lowering stopped, as errors show it, and what an op of StableHLO was refused for.

    Args:
        message: That of litert-torch's error.
        layers: Layer path of each node of the program.

    Returns:
        Place and reason, each empty where the message does not tell it.
    """
    node, refused = _EXECUTED.search(message), _REFUSED.search(message)
    if node:
        return f" at {layers.get(node[1], node[1])}{code_lines.line_in(message, PACKAGES)}", ""
    if refused:
        layer, file, line, reason = refused.groups()
        return f" at {layer or 'the model'} ({Path(file).name}:{line})", reason.rstrip(".")
    return "", ""


def is_users(file: str) -> bool:
    """Whether a file of code is the user's own, or one of a package besides PyTorch and edgeq."""
    return code_lines.is_users(file, PACKAGES)


def where(node: Any) -> str:
    """How errors name a node: layer path and line of source."""
    return f"{layer_path(node)}{source_line(node)}"
