"""Runs the Python that stands in a document."""

from __future__ import annotations

import re
from typing import Any

_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run_blocks(text: str) -> dict[str, Any]:
    """What names stand for after the blocks of a Markdown text ran one after the other."""
    blocks = _BLOCK.findall(text)
    assert blocks, "the text has no Python"
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    return names
