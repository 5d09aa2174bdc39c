"""The delegate's own word on each op of a file, and what the XNNPACK target says of it."""

from __future__ import annotations

from edgeq.flatbuffer import parse
from edgeq.runtime.session import Session
from edgeq.targets import TARGETS


def taken(tflite: bytes) -> set[int]:
    """The ops that the real delegate takes."""
    with Session(tflite, threads=1) as session:
        return set(session.coverage().delegated)


def check_prediction(tflite: bytes) -> None:
    """Asserts that the target names the ops that the delegate takes, and no others."""
    graph = parse(tflite).graphs[0]
    placement = TARGETS["xnnpack"].placement(graph)
    real = taken(tflite)
    predicted = {index for index, obstacles in placement.items() if not obstacles}
    wrong = predicted ^ real
    assert [(graph.operators[i].name, i in real, placement[i]) for i in sorted(wrong)] == []
