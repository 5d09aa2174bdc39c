"""`lint`: what is wrong with a .tflite file of any tool, and where its ops run.

Reads the file; only a child process loads one in which no rule is broken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from edgeq.files import Content
from edgeq.flatbuffer import Operator
from edgeq.linter.result import WHOLE_FILE, Finding, LintResult, Placed, Severity
from edgeq.linter.rules import RULES
from edgeq.linter.subject import Subject, read
from edgeq.runtime.file_check import damage_told, fatal_end
from edgeq.runtime.interpreter import read_model
from edgeq.targets import Effect, Placement, Target, as_target, op_view

__all__ = ["Finding", "LintResult", "Severity", "lint"]

_REFUSED = "quantize again so that the rule holds; until then the model runs without the delegate"
_OUTSIDE = "accept that it runs on the CPU, or express it by other ops"


def lint(model: Content | str | os.PathLike[str], target: str = "xnnpack") -> LintResult:
    """Checks a .tflite file of any tool, float or quantized.

    Args:
        model: The file's bytes or path.
        target: Where it will run, by its name in docs/targets.md.

    Returns:
        Findings, and for each op whether the target runs it.

    Raises:
        ModelError: Not a .tflite file, or damaged elsewhere than in its quantization parameters.
        RecipeError: The target is unknown.
    """
    chosen = as_target(target)
    tflite = read_model(model)
    with damage_told(tflite):
        return _linted(tflite, chosen)


def _linted(tflite: Content, chosen: Target) -> LintResult:
    _, subjects = read(tflite)
    placements = [chosen.placement(subject.graph) for subject in subjects]
    both = list(zip(subjects, placements, strict=True))
    placed = tuple(op for subject, placement in both for op in _placed(subject, placement))
    found = [f for subject in subjects for f in _findings(subject, chosen)]
    if not any(finding.severity is Severity.ERROR for finding in found):
        found += _end_of_process(tflite)
    found.sort(key=lambda finding: finding.severity is not Severity.ERROR)
    notes = chosen.file_notes([(subject.graph, placement) for subject, placement in both])
    return LintResult(chosen.name, tuple(found), placed, notes)


def _end_of_process(tflite: Content) -> Iterator[Finding]:
    """Finds what only the runtime shows: a file that ends the process which loads it."""
    end = fatal_end(tflite)
    if end is not None:
        yield Finding(
            Severity.ERROR, 0, WHOLE_FILE, "the file", "", "loads",
            "the kernels take what the file gives them, and the process that loads it lives on: "
            f"in a child process, {end}",
            "load it nowhere, or in a process of its own; make it again with its converter",
        )  # fmt: skip


def _where(subject: Subject, op: Operator) -> str:
    return subject.graph.tensors[op.outputs[0]].name if op.outputs else ""


def _placed(subject: Subject, placement: Placement) -> Iterator[Placed]:
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
    """Finds broken rules; a tensor that several ops touch is named once, at the first."""
    for rule in RULES:
        for tensor, what in rule.found(subject, op):
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
            _REFUSED if refused else target.advice.get(op.name, _OUTSIDE),
        )  # fmt: skip
