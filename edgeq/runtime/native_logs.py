"""Keeps off the user's terminal what native libraries log while they start.

They write to descriptor 2, past `sys.stderr`, and read their settings too early or never. Knows how
such lines look, and no library.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

_STDERR = 2

_INFORMATIONAL = re.compile(
    rb"[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] "
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] \S+:\d+\] "
    rb"|WARNING: All log messages before absl::InitializeLog\(\) "
    rb"|To enable the following instructions: "
    rb"|INFO: "
)
"""How lines of absl, TensorFlow (older, with a second line of its own) and LiteRT begin."""

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def informational_dropped() -> Iterator[None]:
    """Holds back descriptor 2; what is neither information nor a warning is shown afterwards.

    The descriptor belongs to the whole process: this is for a first import, not for a run.
    """
    with _one_at_a_time, tempfile.TemporaryFile() as held:
        _flush()
        try:
            shown = os.dup(_STDERR)
        except OSError:  # a service without descriptor 2
            yield
            return
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        finally:
            _flush()
            os.dup2(shown, _STDERR)
            os.close(shown)
            held.seek(0)
            with open(_STDERR, "wb", closefd=False) as stderr:
                stderr.writelines(line for line in held if not _INFORMATIONAL.match(line))


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
