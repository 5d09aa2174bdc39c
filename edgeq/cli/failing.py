"""How commands end: a sentence and an exit code, whatever happens.

0 and 1 are verdicts of a command that has judged, so nothing else may end with them but 0 for work
that is done. What keeps a command from its work is 2, a signal 128 and its number.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import typer
from rich.console import Console

from edgeq.errors import EdgeqError, VerificationError
from edgeq.foreign.shown import lines
from edgeq.isolation import is_out_of_memory

TRACEBACK = "EDGEQ_TRACEBACK"
"""Environment variable with which errors that are not edgeq's own show where they come from."""


class _Stopped(BaseException):  # no error
    """A signal that asks the program to end; what it has open is cleaned up on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


@contextlib.contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Whatever goes wrong becomes one message and an exit code, without a traceback."""
    try:
        with _signals_raised():
            yield
            if sys.stdout is not None:
                sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except (KeyboardInterrupt, _Stopped) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        how = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
        _tell(f"{how}; nothing was written", "yellow")
        raise typer.Exit(128 + number) from None
    except BaseException as error:
        if isinstance(error, GeneratorExit):
            raise
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        _tell(f"error: {_sentence(error)}", "red")
        raise typer.Exit(1 if isinstance(error, VerificationError) else 2) from None


def _sentence(error: BaseException) -> str:
    if isinstance(error, EdgeqError):
        return str(error)
    if _is_lack_of_memory(error):
        return "there is not enough memory for this: close other programs, or take a larger machine"
    # rich ends the program when nobody reads what it prints.
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        _print_nowhere()
        return "nobody reads the output any more (broken pipe), so that it is not complete"
    if isinstance(error, OSError):
        named = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{named}"
    where = _raised_at(error)
    if isinstance(error, SystemExit):
        return f"code that was called ended the program with sys.exit({error.code!r}){where}"
    return f"{type(error).__name__}: {error}{where}. {TRACEBACK}=1 shows how it came about"


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether it is one, be it that a library which is imported late cannot be mapped."""
    unloaded = isinstance(error, ImportError) and is_out_of_memory(str(error))
    return (
        unloaded
        or isinstance(error, MemoryError)
        or (getattr(error, "errno", None) == errno.ENOMEM)
    )


def _raised_at(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _tell(text: str, style: str) -> None:
    with contextlib.suppress(OSError):
        try:
            Console(stderr=True).print(
                lines(text), style=style, highlight=False, markup=False, soft_wrap=True
            )
        except (MemoryError, ImportError):  # rich imports what it needs as it prints
            os.write(2, f"{lines(text)}\n".encode(errors="replace"))


def _print_nowhere() -> None:
    """What is still buffered would fail once more when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """Raises signals that ask the program to end, which would end it where it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raised(number: int, _: FrameType | None) -> None:
        raise _Stopped(number)

    before: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # A program started by nohup goes on.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            before[number] = signal.signal(number, raised)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def open_standard_streams() -> None:
    """Opens standard streams that a program was started without.

    The next file to be opened would take their place, and get what is printed.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115
