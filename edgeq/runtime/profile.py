"""Time of each op of a model: the interpreter tells none, so growing parts of it are timed.

The model's first op, its first two, and so on become models of their own; what one takes more than
the one before is the op's. An op that another is fused with only shows together with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeq.files import Content
from edgeq.flatbuffer import Graph, Operator, parse_tree, unpack
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.model import layer
from edgeq.runtime.benchmark import Setting, interleaved_latency, random_sample

BUDGET_S = 0.1
"""How long a part and the one before it run in turn."""


@dataclass(frozen=True)
class OpTime:
    """Time of one op.

    Attributes:
        op: Its index.
        name: Builtin operator name.
        layer: Layer path, from the name of what it computes.
        ms: Milliseconds, 0 where it is lost in the noise.
    """

    op: int
    name: str
    layer: str
    ms: float


def op_times(
    tflite: Content, setting: Setting | None = None, budget_s: float = BUDGET_S
) -> tuple[OpTime, ...]:
    """Times every op of a model's main graph.

    Args:
        tflite: The file.
        setting: How it is run.
        budget_s: Seconds for each op; it runs three times at least.

    Raises:
        ModelError: The file cannot be read, or a part of it does not run.
        DependencyError: There is no package here that parts can be made with.
    """
    setting = setting or Setting()
    setting.check(tflite)
    graph = parse_tree(unpack(tflite)).graphs[0]
    return tuple(_times(tflite, graph, setting, budget_s))


def _times(tflite: Content, graph: Graph, setting: Setting, budget_s: float) -> Iterator[OpTime]:
    tree = unpack(tflite)
    before = None
    unpacked = {t for op in graph.operators if _is_unpacking(graph, op) for t in op.outputs}
    for op in graph.operators:
        if unpacked.issuperset(op.outputs):
            yield OpTime(op.index, op.name, layer(graph, op), 0.0)
            continue
        editor = GraphEditor(tree)
        editor.first_ops(op.index + 1, unpacked)
        session = setting.load(editor.finish())
        parts = {"before": before, "with": session} if before else {"with": session}
        latency = interleaved_latency(
            {name: (part, random_sample(part.io)) for name, part in parts.items()}, budget_s
        )
        earlier = latency["before"].min_ms if before else 0.0
        yield OpTime(
            op.index, op.name, layer(graph, op), max(latency["with"].min_ms - earlier, 0.0)
        )
        if before:
            before.close()
        before = session
    if before:
        before.close()


def _is_unpacking(graph: Graph, op: Operator) -> bool:
    """Whether an op reads constants alone: the delegate runs it once, when the model is loaded."""
    return bool(op.inputs) and all(t.is_constant for _, t in graph.operands(op))
