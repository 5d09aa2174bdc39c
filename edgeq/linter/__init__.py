"""`lint`: what is wrong with a .tflite file of any tool, and where its ops run.

Reads the file alone; nothing is loaded or run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from edgeq.errors import ModelError, RecipeError
from edgeq.flatbuffer import Operator
from edgeq.linter.result import Finding, LintResult, Placed, Severity
from edgeq.linter.rules import RULES
from edgeq.linter.subject import Subject, read
from edgeq.targets import TARGETS, Effect, Target, op_view
from edgeq.targets.edgetpu import RUNTIME, SRAM_BYTES, parameter_bytes

__all__ = ["Finding", "LintResult", "Severity", "lint"]

_REWRITES = {
    "AVERAGE_POOL_2D": "pool over all of an image with MEAN",
    "HARD_SWISH": "edgeq export rewrites it; or train with RELU6",
    "SQUEEZE": "use RESHAPE",
    "EXPAND_DIMS": "use RESHAPE",
    "CONCATENATION": "concatenate at most 5 at a time",
    "SPLIT": "split into at most 4 at a time",
    "RELU": "let it follow a convolution directly, which it then becomes part of",
    "RELU6": "let it follow a convolution directly, which it then becomes part of",
    "SOFTMAX": "leave it out of the model, and let the app compute it",
    "ARG_MAX": "leave it out of the model, and let the app compute it",
}
"""What helps most ops that a target does not run."""

_REFUSED = "quantize again so that the rule holds; until then the model runs without the delegate"
_OUTSIDE = "accept that it runs on the CPU, or express it by other ops"


def lint(model: bytes | str | os.PathLike[str], target: str = "xnnpack") -> LintResult:
    """Checks a .tflite file of any tool, float or quantized.

    Args:
        model: The file's bytes or path.
        target: Where it will run: `"xnnpack"`, `"edgetpu"` or `"portable"`.

    Returns:
        Findings, and for each op whether the target runs it.

    Raises:
        ModelError: Not a .tflite file, or damaged elsewhere than in its quantization parameters.
        RecipeError: The target is unknown.
    """
    if target not in TARGETS:
        raise RecipeError(f"target must be one of {', '.join(TARGETS)}. Received: {target!r}")
    _, subjects = read(model if isinstance(model, bytes) else _content(model))
    chosen = TARGETS[target]
    placed = tuple(op for subject in subjects for op in _placed(subject, chosen))
    found = [f for subject in subjects for f in _findings(subject, chosen)]
    found.sort(key=lambda finding: finding.severity is not Severity.ERROR)
    notes = _edge_tpu_notes(subjects) if target == "edgetpu" else ()
    return LintResult(target, tuple(found), placed, notes)


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}") from None


def _where(subject: Subject, op: Operator) -> str:
    return subject.graph.tensors[op.outputs[0]].name if op.outputs else ""


def _placed(subject: Subject, target: Target) -> Iterator[Placed]:
    placement = target.placement(subject.graph)
    for op in subject.graph.operators:
        where = _where(subject, op)
        yield Placed(subject.graph.index, op.index, op.name, where, placement[op.index])


def _findings(subject: Subject, target: Target) -> Iterator[Finding]:
    shown: set[tuple[str, int, str]] = set()
    for op in subject.graph.operators:
        general = list(_general(subject, op, shown))
        yield from general
        if not any(finding.severity is Severity.ERROR for finding in general):
            yield from _of_target(subject, op, target)


def _general(subject: Subject, op: Operator, shown: set[tuple[str, int, str]]) -> Iterator[Finding]:
    """What breaks a rule; a tensor that several ops touch is named once, at the first."""
    for rule in RULES:
        for tensor, what in rule.check(subject, op):
            key = (rule.name, -1 - op.index if tensor is None else tensor.index, what)
            if key not in shown:
                shown.add(key)
                where = _where(subject, op) if tensor is None else tensor.name
                yield Finding(
                    rule.severity, subject.graph.index, op.index, op.name, where, rule.name,
                    f"{rule.sentence}: {what}", rule.advice,
                )  # fmt: skip


def _of_target(subject: Subject, op: Operator, target: Target) -> Iterator[Finding]:
    for constraint, what in target.broken(op_view(subject.graph, op)):
        refused = constraint.effect is Effect.REFUSAL
        yield Finding(
            Severity.ERROR if refused else Severity.WARNING, subject.graph.index, op.index, op.name,
            _where(subject, op), f"{target.name}/{constraint.name.replace('_', '-')}",
            f"{constraint.sentence}: {what}",
            _REFUSED if refused else _REWRITES.get(op.name, _OUTSIDE),
        )  # fmt: skip


def _edge_tpu_notes(subjects: tuple[Subject, ...]) -> tuple[str, ...]:
    placements = [(s.graph, TARGETS["edgetpu"].placement(s.graph)) for s in subjects]
    size = sum(parameter_bytes(graph, placement) for graph, placement in placements)
    mapped = [op.name for g, p in placements for op in g.operators if not p[op.index]]
    notes = []
    if size > SRAM_BYTES:
        notes.append(
            f"{size / 1e6:.1f} MB of parameters exceed about {SRAM_BYTES / 1e6:.0f} MB on the "
            "chip: the rest is sent to it at every inference"
        )
    elif mapped:
        notes.append(f"{size / 1e6:.2f} MB of parameters fit on the chip")
    if mapped:
        newest = max(mapped, key=lambda name: RUNTIME[name])
        if RUNTIME[newest] > 12:
            notes.append(f"{newest} needs version {RUNTIME[newest]} of the Edge TPU run time")
    return tuple(notes)
