"""The child process: whatever a job does there, the parent gets a result or an exception."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeq.errors import ProcessKilledError, RecipeError
from edgeq.isolation import JobCrashed, JobFailed, Worker

PROCESSES = Path("/proc")

needs_proc = pytest.mark.skipif(not PROCESSES.exists(), reason="counts processes in /proc")


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as made:
        yield made


def run(worker: Worker, source: str) -> None:
    """Runs Python source in the child."""
    worker.call("builtins:exec", source)


def assert_works(worker: Worker) -> None:
    assert worker.call("operator:add", 2, 3) == 5


def test_results_come_back_in_order(worker: Worker) -> None:
    assert [worker.call("operator:mul", i, 2) for i in range(5)] == [0, 2, 4, 6, 8]


def test_one_child_runs_all_jobs_and_is_not_the_parent(worker: Worker) -> None:
    child = worker.call("os:getpid")
    assert child != os.getpid()
    assert worker.call("os:getpid") == child


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts, also where a shell runs the tests in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("whole_group", [False, True], ids=["parent", "terminal"])
def test_an_interrupted_job_gives_no_answer_to_the_next_one(
    whole_group: bool, interruptible: None
) -> None:
    """A terminal sends its Ctrl-C to the child as well, which is not to end it."""
    with Worker() as worker:
        child = worker.call("os:getpid")
        if whole_group:
            os.kill(child, signal.SIGINT)
            assert worker.call("os:getpid") == child
        timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            worker.call("time:sleep", 5.0)
        assert_works(worker)


DEATHS: dict[str, tuple[str, str]] = {
    "segmentation fault": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "abort": ("import os; os.abort()", "SIGABRT"),
    "exit": ("import os; os._exit(3)", "ended with exit code 3"),
    "exit with success": ("import os; os._exit(0)", "ended with exit code 0"),
    "SystemExit": ("raise SystemExit(4)", "ended with exit code 4"),
    "a result cut short": (
        "import os, struct, sys\n"
        "os.write(int(sys.argv[2]), struct.pack('!i', 1000) + b'half')\n"
        "os._exit(5)",
        "ended with exit code 5",
    ),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_dead_child_is_an_exception_and_the_next_job_runs(worker: Worker, death: str) -> None:
    source, reason = DEATHS[death]
    with pytest.raises(JobCrashed) as caught:
        run(worker, source)
    assert reason in caught.value.reason
    assert_works(worker)


KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_a_child_that_is_killed_from_outside_is_no_answer(worker: Worker, tmp_path: Path) -> None:
    once = tmp_path / "once"
    source = f"import pathlib; p = pathlib.Path({str(once)!r})\nif not p.exists():\n    p.touch()\n"
    run(worker, source + "".join(f"    {line}\n" for line in KILLED.split("; ")))
    assert once.exists()
    with pytest.raises(ProcessKilledError, match=r"was killed by SIGKILL from outside, twice: .*"):
        run(worker, KILLED)
    assert_works(worker)


def test_a_job_that_hangs_is_stopped(worker: Worker) -> None:
    assert_works(worker)
    start = time.monotonic()
    with pytest.raises(JobCrashed, match="took longer than 1 s and was stopped"):
        worker.call("time:sleep", 60, timeout_s=1.0)
    assert time.monotonic() - start < 20
    assert_works(worker)


def test_what_a_dead_child_printed_is_kept(worker: Worker) -> None:
    run(worker, "print('of the job before')")
    with pytest.raises(JobCrashed) as caught:
        run(worker, "import os, sys; os.write(1, b'out '); os.write(2, b'last words'); os.abort()")
    assert "out last words" in caught.value.output
    assert "of the job before" not in caught.value.output
    assert "last words" in str(caught.value)


def test_only_the_end_of_a_long_output_is_kept(worker: Worker) -> None:
    with pytest.raises(JobCrashed) as caught:
        run(worker, "import os; os.write(2, b'x' * 100_000 + b'the end'); os.abort()")
    assert caught.value.output.endswith("the end")
    assert len(caught.value.output) < 10_000


def test_an_error_of_the_job_is_told_as_text_and_the_child_lives(worker: Worker) -> None:
    child = worker.call("os:getpid")
    with pytest.raises(JobFailed) as caught:
        worker.call("math:sqrt", -1.0)
    assert caught.value.reason.startswith("ValueError: ")
    assert worker.call("os:getpid") == child


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ("no_such_module:f", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("math:no_such_function", "AttributeError: module 'math' has no attribute"),
    ],
)
def test_a_job_that_does_not_exist(worker: Worker, job: str, reason: str) -> None:
    with pytest.raises(JobFailed) as caught:
        worker.call(job)
    assert reason in caught.value.reason


def test_an_edgeq_error_passes_through_as_itself(worker: Worker) -> None:
    with pytest.raises(RecipeError, match="'nope' is neither a preset"):
        worker.call("edgeq.recipe:as_recipe", "nope")
    assert_works(worker)


def test_fifty_megabytes_there_and_back(worker: Worker) -> None:
    payload = os.urandom(50 << 20)
    assert worker.call("copy:copy", payload) == payload


def test_a_child_that_was_killed_from_outside_is_replaced_once(worker: Worker) -> None:
    child = worker.call("os:getpid")
    os.kill(child, signal.SIGKILL)
    assert worker.call("builtins:len", bytes(50 << 20)) == 50 << 20
    assert_works(worker)


def test_an_argument_that_cannot_be_sent_leaves_the_child_in_step(worker: Worker) -> None:
    with pytest.raises(Exception, match="pickle"):
        worker.call("builtins:str", threading.Lock())
    assert_works(worker)


def test_a_result_that_cannot_be_sent_is_an_exception(worker: Worker) -> None:
    with pytest.raises((JobCrashed, JobFailed), match="cannot pickle"):
        worker.call("threading:Lock")
    assert_works(worker)


@needs_proc
def test_a_job_that_wants_more_memory_than_it_may_have_fails(worker: Worker) -> None:
    with pytest.raises(JobFailed, match="MemoryError"):
        worker.call("builtins:bytearray", 1 << 30, memory_bytes=64 << 20)
    assert worker.call("builtins:bytearray", 1000) == bytearray(1000)


@pytest.mark.parametrize("ahead", [True, False])
def test_modules_are_loaded_ahead(ahead: bool) -> None:
    with Worker(("wave",) if ahead else ()) as made:
        run(made, f"import sys\nassert ('wave' in sys.modules) is {ahead}")


def test_a_module_that_cannot_be_loaded_ahead_is_told() -> None:
    with Worker(("no_such_module",)) as made, pytest.raises(JobCrashed) as caught:
        assert_works(made)
    assert "No module named 'no_such_module'" in caught.value.output


def children() -> dict[int, str]:
    """Process states of this process's children, by id; `Z` is one nobody waited for."""
    found = {}
    for entry in PROCESSES.iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found[int(entry.name)] = fields[0]
    return found


def crash(worker: Worker, at_work: bool) -> None:
    """Brings a child down in its job, or at once, which takes less time."""
    job, argument, limit = ("time:sleep", 60, 0.001)
    if at_work:
        job, argument, limit = ("os:_exit", 3, 60.0)
    with pytest.raises(JobCrashed):
        worker.call(job, argument, timeout_s=limit)


@needs_proc
def test_crashes_leave_no_processes_and_no_descriptors_behind() -> None:
    before, open_before = children().keys(), len(os.listdir("/proc/self/fd"))
    with Worker() as made:
        open_with_one = len(os.listdir("/proc/self/fd"))
        for number in range(30):
            crash(made, at_work=number % 10 == 0)
        assert len(os.listdir("/proc/self/fd")) == open_with_one
        states = [state for child, state in children().items() if child not in before]
        assert len(states) == 1
        assert states != ["Z"]
    made.close()
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert children().keys() <= before


def gone(process: int) -> bool:
    try:
        state = (PROCESSES / str(process) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@needs_proc
def test_a_child_ends_with_its_parent() -> None:
    source = (
        "import os, edgeq.isolation as i\n"
        "print(i.Worker().call('os:getpid'), flush=True)\n"
        "os.abort()"
    )
    parent = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False
    )
    assert parent.returncode == -signal.SIGABRT
    assert within(20, lambda: gone(int(parent.stdout)))
