"""The Edge TPU compiler in a child process: what it made of each kind of op, beside the prediction.

Its log is all that it says, and names kinds of ops, not single ones. Knows files, not runtimes.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edgeq.errors import ConversionError, DependencyError, ModelError, RecipeError
from edgeq.flatbuffer import Graph, parse
from edgeq.foreign.shown import escape
from edgeq.targets.edgetpu import COMPILER, EDGETPU
from edgeq.targets.views import op_view
from edgeq.terminal.printed import Result

MAPPED = "Mapped to Edge TPU"
TIMEOUT_S = 180
"""How long the compiler works on a model before it gives up by itself."""

_FIELD = re.compile(r"^([A-Z][^:\n]+): +(.+)$", re.MULTILINE)
_ROW = re.compile(r"^([A-Za-z0-9_]+) +(\d+) +(\S.*?) *$", re.MULTILINE)
_SIZE = re.compile(r"([\d.]+)(B|KiB|MiB|GiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NEW_OP = re.compile(r"(Didn't find op for [^\n]*|Op builtin_code out of range: \d+)")
_FAILURES = {
    "large activation tensors": (
        "tensors between its ops are too large for the chip; give the model smaller inputs, or end "
        "the compiled part before them with intermediate_tensors"
    ),
    "Internal compiler error": (
        "it crashed, mostly on large tensors; try again once, then smaller inputs, or end the "
        "compiled part earlier with search=True or intermediate_tensors"
    ),
}


@dataclass(frozen=True)
class MappedOps:
    """Placement of one kind of op.

    Attributes:
        op: Builtin operator name.
        total: How many the model has.
        mapped: How many of them run on the Edge TPU.
        predicted: How many of them edgeq said would; None where the prediction does not apply.
        reasons: What the compiler says of the others, with their number.
        obstacles: What edgeq says of those that it did not expect to map, likewise.
    """

    op: str
    total: int
    mapped: int
    predicted: int | None
    reasons: Mapping[str, int]
    obstacles: Mapping[str, int]


@dataclass(frozen=True)
class Compiled(Result):
    """One compiled file.

    Attributes:
        path: Where it is.
        version: Of the compiler.
        on_chip_bytes: Parameters that stay on the chip between runs.
        off_chip_bytes: Parameters that are sent to it at every run.
        subgraphs: Pieces that run on the Edge TPU.
        ops: Each kind of op, those that do not map completely first.
    """

    path: Path
    version: str
    on_chip_bytes: int
    off_chip_bytes: int
    subgraphs: int
    ops: tuple[MappedOps, ...]

    @property
    def mapped_ops(self) -> int:
        """Number of ops that run on the Edge TPU."""
        return sum(row.mapped for row in self.ops)

    @property
    def total_ops(self) -> int:
        """Number of ops of the model."""
        return sum(row.total for row in self.ops)

    @property
    def surprises(self) -> tuple[MappedOps, ...]:
        """Kinds of op of which the compiler mapped more or fewer than predicted."""
        return tuple(r for r in self.ops if r.predicted not in (None, r.mapped))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        counts = {"mapped_ops": self.mapped_ops, "total_ops": self.total_ops}
        return {**asdict(self), "path": str(self.path), **counts}

    def _write(self, console: Console) -> None:
        table = Table(title=self.path.name, title_style="bold")
        for heading in ("op", "ops", "mapped", "predicted", "why not"):
            table.add_column(heading, overflow="fold")
        for row in self.ops:
            why = "\n".join(f"{count} {reason}" for reason, count in row.reasons.items())
            said = "" if row.predicted is None else str(row.predicted)
            table.add_row(escape(row.op), str(row.total), str(row.mapped), said, escape(why))
        console.print(table)
        console.print(
            f"{self.mapped_ops} of {self.total_ops} ops run on the Edge TPU in {self.subgraphs} "
            f"piece(s); {self.on_chip_bytes / 1e6:.2f} MB of parameters on the chip, "
            f"{self.off_chip_bytes / 1e6:.2f} MB sent at every run",
            highlight=False, markup=False,
        )  # fmt: skip


def compile_edgetpu(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    segments: int = 1,
    several_pieces: bool = False,
    search: bool = False,
    intermediate_tensors: Sequence[str] = (),
    min_edgetpu_runtime: int | None = None,
    timeout_s: int = TIMEOUT_S,
) -> tuple[Compiled, ...]:
    """Compiles int8 files for the Edge TPU, with the compiler that is on the `PATH`.

    Args:
        models: A file of `edgeq.export(..., target="edgetpu")`, or several, which then share the
            memory of one chip.
        folder: Where the results go, as `<name>_edgetpu.tflite`.
        segments: Cuts the model into so many parts, for as many chips in a row.
        several_pieces: Whether ops behind the first one that does not map may map as well. Each
            piece costs a way to the chip and back.
        search: Whether the compiler ends the compiled part earlier if that lets it succeed.
        intermediate_tensors: Names of the tensors to end the compiled part at.
        min_edgetpu_runtime: The oldest Edge TPU run time that will load it, 10 to 14.
        timeout_s: Seconds after which the compiler is stopped.

    Returns:
        What was made, file by file; with `segments` one for each part.

    Raises:
        DependencyError: There is no compiler on the `PATH`.
        ModelError: A file cannot be read, or has ops that the compiler does not know.
        RecipeError: Options that exclude each other.
        ConversionError: The compiler fails, or takes too long.
    """
    paths = [Path(models)] if isinstance(models, str | os.PathLike) else [Path(m) for m in models]
    if segments > 1 and (several_pieces or search or intermediate_tensors):
        raise RecipeError(
            "segments excludes several_pieces, search and intermediate_tensors: the compiler cuts "
            "the model into parts only where all of it maps"
        )
    graphs = {path.stem: _graph(path) for path in paths}
    command = [_compiler(), "-s", "-o", str(folder), "-t", str(timeout_s)]
    command += ["-n", str(segments)] if segments > 1 else []
    command += ["-a"] if several_pieces else []
    command += ["-d"] if search else []
    command += ["-i", ",".join(intermediate_tensors)] if intermediate_tensors else []
    command += ["-m", str(min_edgetpu_runtime)] if min_edgetpu_runtime is not None else []
    Path(folder).mkdir(parents=True, exist_ok=True)
    log = _run([*command, *map(str, paths)], timeout_s)
    partial = segments > 1 or search or bool(intermediate_tensors)
    return tuple(
        _with_prediction(found, None if partial else graphs.get(stem), several_pieces)
        for stem, found in parse_log(log)
    )


def _compiler() -> str:
    if COMPILER.path is None:
        raise DependencyError(COMPILER.missing)
    return COMPILER.path


def _graph(path: Path) -> Graph:
    try:
        return parse(path.read_bytes()).graphs[0]
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from None


def _run(command: Sequence[str], timeout_s: int) -> str:
    """Runs the compiler and returns what it prints."""
    try:
        # It stops by itself after its own time; a little more is for what it does around that.
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s + 30, check=False
        )
    except subprocess.TimeoutExpired:
        raise ConversionError(
            f"the Edge TPU compiler took longer than {timeout_s} s and was stopped"
        ) from None
    except OSError as error:
        raise DependencyError(f"{command[0]} cannot be started: {error.strerror}") from None
    log = done.stdout + done.stderr
    if done.returncode == 0 and "Model compiled successfully" in log:
        return log
    unknown = _NEW_OP.search(log)
    if unknown is not None:
        raise ModelError(
            f"the Edge TPU compiler cannot parse the model ({unknown[1]}): make the file with "
            "edgeq.export(..., target='edgetpu'), which keeps to the ops that it knows"
        )
    for text, advice in _FAILURES.items():
        if text in log:
            raise ConversionError(f"the Edge TPU compiler failed ({text}): {advice}")
    if "timeout" in log and "within timeout" not in log:
        raise ConversionError(
            f"the Edge TPU compiler gave up after {timeout_s} s; give it more with timeout_s"
        )
    last = [line for line in log.splitlines() if line.strip()][-3:]
    raise ConversionError(
        f"the Edge TPU compiler failed with exit code {done.returncode}: {' '.join(last)}"
    )


def parse_log(log: str) -> list[tuple[str, Compiled]]:
    """Reads what the compiler prints with `--show_operations`.

    Returns:
        For each compiled file the stem of the model's name, and what was made of it; predictions
        are left out.

    Raises:
        ConversionError: It is no such log.
    """
    head, *blocks = re.split(r"^(?=Input(?: model)?: )", log, flags=re.MULTILINE)
    version = re.search(r"Compiler version (\S+)", head)
    if version is None or not blocks:
        raise ConversionError("what the Edge TPU compiler printed names no version or no model")
    return [_block(block, version[1]) for block in blocks]


def _block(block: str, version: str) -> tuple[str, Compiled]:
    fields = dict(_FIELD.findall(block))
    rows: dict[str, dict[str, int]] = {}
    for op, count, status in _ROW.findall(block):
        if op != "Operator":
            of_op = rows.setdefault(op, {})
            of_op[status] = of_op.get(status, 0) + int(count)
    ops = [
        MappedOps(
            op, sum(statuses.values()), statuses.get(MAPPED, 0), None,
            {status: count for status, count in statuses.items() if status != MAPPED}, {},
        )
        for op, statuses in rows.items()
    ]  # fmt: skip
    source = fields.get("Input model") or fields.get("Input", "")
    made = fields.get("Output model") or fields.get("Output", "")
    return Path(source).stem, Compiled(
        Path(made), version,
        _bytes(fields.get("On-chip memory used for caching model parameters")),
        _bytes(fields.get("Off-chip memory used for streaming uncached model parameters")),
        int(fields.get("Number of Edge TPU subgraphs", "1")), _sorted(ops),
    )  # fmt: skip


def _bytes(text: str | None) -> int:
    found = _SIZE.fullmatch(text or "0B")
    return round(float(found[1]) * _UNITS[found[2]]) if found else 0


def _sorted(ops: Sequence[MappedOps]) -> tuple[MappedOps, ...]:
    return tuple(sorted(ops, key=lambda row: (row.mapped == row.total, row.op)))


def _with_prediction(compiled: Compiled, graph: Graph | None, several_pieces: bool) -> Compiled:
    """The compiler's result beside the prediction of edgeq."""
    if graph is None:
        return compiled
    placement = (
        {op.index: EDGETPU.obstacles(op_view(graph, op)) for op in graph.operators}
        if several_pieces
        else EDGETPU.placement(graph)
    )
    rows = []
    for row in compiled.ops:
        kind = [op.index for op in graph.operators if op.name.partition(":")[0] == row.op]
        obstacles: dict[str, int] = {}
        for index in kind:
            for obstacle in placement[index]:
                obstacles[obstacle] = obstacles.get(obstacle, 0) + 1
        said = sum(not placement[index] for index in kind)
        rows.append(MappedOps(row.op, row.total, row.mapped, said, row.reasons, obstacles))
    return Compiled(
        compiled.path, compiled.version, compiled.on_chip_bytes, compiled.off_chip_bytes,
        compiled.subgraphs, _sorted(rows),
    )  # fmt: skip
