"""Child processes for native code that may die: a crash in a job is an exception here.

A job is a function named `"module:function"` whose arguments and result can be pickled. Large
`bytes` among them, and mapped files, go as files that the other side maps. Knows nothing of what
the jobs do.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from edgeq.errors import DependencyError, EdgeqError, ProcessKilledError
from edgeq.files import MappedFile, is_large, new_scratch_folder, on_disk, taken_over, written

STDERR_KEPT = 4000
"""Characters of a dead child's error output that are kept for the message."""

MEMORY_USED = Path("/proc/self/statm")
"""Where Linux tells how much a process holds; elsewhere a job's memory is not limited."""


FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM)
"""Signals that no native code dies of by itself: the system had no memory left, or somebody sent
them. A child that this module kills for taking too long is not counted."""


class JobCrashed(Exception):  # noqa: N818  # it is news of the child, not an error of edgeq
    """The child died or hung while it ran a job. `.reason` says how, `.output` what it printed."""

    hung = False
    """Whether it was stopped for taking too long."""

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(f"{reason}\n{output}".strip())
        self.reason = reason
        self.output = output


class JobFailed(Exception):  # noqa: N818
    """The job raised an error that is not edgeq's own. `.output` is what the child printed."""

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(f"{reason}\n{output}".strip())
        self.reason = reason
        self.output = output


class _KilledError(Exception):
    """The child was killed from outside or ran out of memory; the text says so."""


NO_MEMORY = re.compile(
    "MemoryError|annot allocate memory|emory allocation still failed|"
    "failed to map segment from shared object$"
)
"""In the last line that a process prints which has no memory: of Python, libc, BLAS, the loader."""


@dataclass(frozen=True)
class _Path:
    """Stands for content that lies in a file when it is sent to a child."""

    path: Path


def _on_disk_if_large(value: object) -> object:
    if isinstance(value, MappedFile) or (isinstance(value, bytes) and is_large(len(value))):
        return on_disk(value)
    return value


class Worker:
    """One child Python process that runs jobs in order, started at once and reused.

    Args:
        preload: Modules that the child imports while the parent does something else.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        self._preload = tuple(preload)
        self._start()

    def _start(self) -> None:
        if not sys.executable:
            raise DependencyError(
                "edgeq runs native code in child processes, and sys.executable does not say which "
                "Python to start: set it to the path of one, as programs that embed Python do"
            )
        with contextlib.ExitStack() as stack:
            try:
                self._launch(stack)
            except OSError as error:
                raise EdgeqError(
                    f"cannot start a child process: {error.strerror or error}. It needs a few free "
                    "descriptors (ulimit -n), a free process (ulimit -u) and a temporary folder"
                ) from None
            self._opened = stack.pop_all()

    def _launch(self, stack: contextlib.ExitStack) -> None:
        """Starts the child; the stack ends it and closes what is open as long as it lives."""
        folder = new_scratch_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self._stderr = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        jobs, self._jobs = Pipe(duplex=False)
        with jobs:
            stack.enter_context(self._jobs)
            self._results, results = Pipe(duplex=False)
            with results:
                stack.enter_context(self._results)
                ends = jobs.fileno(), results.fileno()
                path = _import_path()
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _CHILD, *map(str, ends), _PACKAGE, str(len(path)),
                     *path, *self._preload],
                    pass_fds=ends, stdin=subprocess.DEVNULL, stdout=self._stderr,
                    stderr=self._stderr, env={**_child_environment(), "TMPDIR": str(folder)},
                )  # fmt: skip
        stack.callback(self._end)

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child; a second call does nothing."""
        self._opened.close()

    def call(
        self,
        job: str,
        *arguments: object,
        timeout_s: float = 600.0,
        memory_bytes: int | None = None,
    ) -> Any:
        """Runs a job in the child and returns its result.

        A child that is killed from outside, or that the machine has no memory for, tells nothing of
        its job, which is run once more.

        Args:
            job: `"module:function"`.
            *arguments: Picklable arguments; large `bytes` arrive as a `MappedFile`.
            timeout_s: After this many seconds the child is killed.
            memory_bytes: Most memory that the job may take, on Linux; None is what the machine has.

        Raises:
            JobCrashed: The child died or ran out of time. The next call starts a new child.
            JobFailed: The job raised something that is not an `EdgeqError`, or took more than
                `memory_bytes`.
            ProcessKilledError: The child was killed from outside or had no memory, twice.
            EdgeqError: Raised by the job, passed through.
        """
        for _ in range(2):
            try:
                return self._call(job, arguments, timeout_s, memory_bytes)
            except _KilledError as error:
                how = str(error)
        raise ProcessKilledError(
            f"the child process that ran {job} {how}, twice: the system may have no memory left. "
            "Close other programs or take a machine with more memory, and try again"
        )

    def _call(
        self,
        job: str,
        arguments: tuple[object, ...],
        timeout_s: float,
        memory_bytes: int | None,
    ) -> Any:
        """Runs a job in the child, once."""
        start = self._stderr.seek(0, os.SEEK_END)
        kept = [_on_disk_if_large(argument) for argument in arguments]
        sent = tuple(_Path(a.path) if isinstance(a, MappedFile) else a for a in kept)
        try:
            self._jobs.send((job, sent, memory_bytes or _machine_memory()))
            if not self._results.poll(timeout_s):
                self._process.kill()
                late = self._crashed(f"took longer than {timeout_s:.0f} s and was stopped", start)
                late.hung = True
                raise late
            succeeded, result = self._results.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            crashed = self._crashed(_death(code), start)
            if -code in FROM_OUTSIDE:
                raise _KilledError(f"{crashed.reason} from outside") from None
            if is_out_of_memory(crashed.output):
                raise _KilledError("had not enough memory") from None
            raise crashed from None
        except KeyboardInterrupt:  # the next job must not get the answer to this one
            self._crashed("was interrupted", start)
            raise
        if succeeded:
            return taken_over(result.path) if isinstance(result, _Path) else result
        if isinstance(result, EdgeqError):
            raise result
        if memory_bytes is None and is_out_of_memory(result):
            self._crashed(result, start)
            raise _KilledError("had not enough memory")
        raise JobFailed(str(result), self._printed(start))

    def _crashed(self, reason: str, start: int) -> JobCrashed:
        error = JobCrashed(reason, self._printed(start))
        self.close()
        self._start()
        return error

    def _printed(self, start: int) -> str:
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(start, end - STDERR_KEPT))
        return self._stderr.read().decode("utf-8", "replace").strip()


def is_out_of_memory(printed: str) -> bool:
    """Whether the last line of what a process printed says that it had no memory."""
    return any(NO_MEMORY.search(line) for line in printed.splitlines()[-1:])


def _death(code: int) -> str:
    """How a child ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _import_path() -> list[str]:
    """The parent's import path without the working folder: the child must find the same edgeq.

    It is no PYTHONPATH, which would also decide what Python imports while it starts.
    """
    return [path for path in sys.path if isinstance(path, str) and path]


def _child_environment() -> dict[str, str]:
    """The parent's environment.

    The child gives large blocks back as soon as they are free, which glibc by itself does not do:
    it waits idle between jobs that each take several times a model's size.
    """
    memory = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    return {**os.environ, **memory}


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def _limited_memory(count: int) -> Iterator[None]:
    """Lets this process take `count` more bytes than it holds now, where the system can do that.

    Without a limit, a job that asks for more than there is may have the system end other processes.
    """
    if not MEMORY_USED.exists():
        yield
        return
    import resource

    held = int(MEMORY_USED.read_text().split()[5]) * os.sysconf("SC_PAGE_SIZE")
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + count if most == resource.RLIM_INFINITY else min(held + count, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


def _run(job: str, arguments: tuple[object, ...]) -> tuple[bool, Any]:
    module, _, function = job.partition(":")
    try:
        opened = [MappedFile(a.path) if isinstance(a, _Path) else a for a in arguments]
        result = getattr(importlib.import_module(module), function)(*opened)
        if isinstance(result, bytes) and is_large(len(result)):
            result = _Path(written([result], len(result)))
        return True, result
    except EdgeqError as error:
        return False, error
    except Exception as error:  # whatever a native binding raises goes to the parent as text
        return False, f"{type(error).__name__}: {error}"


def _die_with_parent() -> None:
    """Has Linux end this process with its parent, which a job that hangs would outlive."""
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _serve(job_descriptor: int, result_descriptor: int, preload: Sequence[str]) -> None:
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent, which goes on or ends us
    jobs = Connection(job_descriptor, writable=False)
    results = Connection(result_descriptor, readable=False)
    for module in preload:
        importlib.import_module(module)
    while True:
        try:
            job, arguments, memory_bytes = jobs.recv()
        except EOFError:
            return
        with _limited_memory(memory_bytes):
            result = _run(job, arguments)
        results.send(result)


_PACKAGE = str(Path(__file__).parent)

_CHILD = """
import sys
count = int(sys.argv[4])
sys.path[:] = sys.argv[5:5 + count]
import types
package = sys.modules["edgeq"] = types.ModuleType("edgeq")
package.__path__ = [sys.argv[3]]
from edgeq.isolation import _serve
_serve(int(sys.argv[1]), int(sys.argv[2]), preload=sys.argv[5 + count:])
"""
"""Sets the import path before it imports anything: Python puts the working folder in front of it.

The package itself is not run, which would import all of it: jobs name what they need.
"""
