"""Descriptor 2 while native libraries start: their information is dropped, all else is shown."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgeq.runtime.native_logs import informational_dropped

INFORMATION = [
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    b"I0000 00:00:1795883934.438464   19650 port.cc:153] oneDNN custom operations are on.",
    b"W0000 00:00:1795883934.438464 19650 cpu_feature_guard.cc:227] it could be faster",
    b"2025-11-28 16:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN",
    b"To enable the following instructions: AVX512F FMA, in other operations, rebuild TensorFlow.",
    b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
]
OTHER = [
    b"E0000 00:00:1795883934.438464   19650 port.cc:153] an error",
    b"2025-11-28 16:00:00.123456: E tensorflow/core/util/port.cc:153] an error",
    b"ERROR: the delegate failed",
    b"my INFO: is not at the beginning",
]


@pytest.mark.parametrize("line", INFORMATION)
def test_information_is_dropped(line: bytes, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with informational_dropped():
        os.write(2, line + b"\n")
    assert capfdbinary.readouterr().err == b""


def test_all_else_is_shown_in_order(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with informational_dropped():
        os.write(2, b"\n".join([*OTHER, *INFORMATION, b"no end of line"]))
        assert capfdbinary.readouterr().err == b""
    assert capfdbinary.readouterr().err == b"\n".join([*OTHER, b"no end of line"])


def test_python_and_native_lines_keep_their_order(capfd: pytest.CaptureFixture[str]) -> None:
    print("before", file=sys.stderr)
    with informational_dropped(), informational_dropped():
        print("python", file=sys.stderr)
        os.system("echo native >&2")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\npython\nnative\nafter\n"


def _fail_with_last_words() -> None:
    os.write(2, b"last words\n")
    raise ImportError


def test_an_error_comes_through_with_what_was_said(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError), informational_dropped():
        _fail_with_last_words()
    assert capfd.readouterr().err == "last words\n"


def test_a_process_without_descriptor_2_goes_on() -> None:
    program = (
        "import os, edgeq.runtime.native_logs as logs\n"
        "os.close(2)\n"
        "with logs.informational_dropped(): print('inside')\n"
        "print('after')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "inside\nafter\n")
