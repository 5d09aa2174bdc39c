"""The line of the user's own code that an error came through, as errors show it.

Knows tracebacks, and of packages where their files are.
"""

from __future__ import annotations

import importlib.util
import re
import traceback
from collections.abc import Sequence
from pathlib import Path

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+(?:\n {4,}(.*))?')
_OWN = Path(__file__).parents[1]


def raised_line(error: BaseException, packages: Sequence[str]) -> str:
    """The innermost line that an error came through and no package has; see `line_in`."""
    return line_in("".join(traceback.format_exception(error)), packages)


def line_in(trace: str, packages: Sequence[str]) -> str:
    """The innermost line of a traceback that is the user's, as ` (model.py:12: x = a @ b)`, or ``.

    Args:
        trace: The traceback as Python prints it.
        packages: Names of the packages whose lines say nothing, besides edgeq's own.
    """
    for file, line, code in reversed(_FRAME.findall(trace)):
        if is_users(file, packages):
            shown = f": {code.strip()[:100]}" if code else ""
            return f" ({Path(file).name}:{line}{shown})"
    return ""


def is_users(file: str, packages: Sequence[str]) -> bool:
    """Whether a file of code is in none of some packages, nor in edgeq."""
    folders = (_OWN, *(folder for name in packages for folder in _folders(name)))
    return not any(folder in Path(file).parents for folder in folders)


def _folders(package: str) -> list[Path]:
    """Where the files of a package are; nowhere if it is not installed."""
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
