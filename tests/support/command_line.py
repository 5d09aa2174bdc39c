"""The command `edgeq`, in this process or as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from edgeq.cli import app

ENVIRONMENT = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
EDGEQ = str(Path(sys.executable).with_name("edgeq"))


def run(*arguments: str | Path) -> Any:
    """The command in this process; typer has no public name for the result's type."""
    return CliRunner().invoke(app, [str(a) for a in arguments], env=ENVIRONMENT)


def process(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it."""
    return subprocess.run(
        [EDGEQ, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, **ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"}, **options,
    )  # fmt: skip
