"""What the converter leaves undone around integer ops."""

from __future__ import annotations

from one_op import OneOp, Step, Value

import edgeq

X = Value((1, 64), low=0.0, high=23.0)


def test_float_ops_read_what_float_ops_computed() -> None:
    """The product makes integers of the whole numbers, of which the other reader knows nothing."""
    steps = (
        Step("FLOOR", ("x",), {"whole": X}),
        Step("CEIL", ("whole",), {"same": X}),
        Step("MUL", ("whole", "y"), {"product": X}),
        Step("FLOOR_DIV", ("product", "same"), {"rows": X}),
    )
    case = OneOp("read twice", {"x": X, "y": X}, steps)
    data = [{**sample, "x": sample["x"] + 1} for sample in case.draw(20)]
    edge = edgeq.export(case.build(), data, recipe="int8", min_sqnr_db=None, progress=False)
    graph = edge.beside_float().graph
    by_name = {op.name: op for op in graph.operators}
    assert by_name["CEIL"].inputs[0] == by_name["FLOOR"].outputs[0]
    assert graph.tensors[by_name["MUL"].outputs[0]].dtype == "int8"
