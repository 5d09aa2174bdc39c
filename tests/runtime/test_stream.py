"""Streams: a session that carries states, from files that name them and from others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from file_parts import edited
from one_op import OneOp, Step, Value

import edgeq
from edgeq.errors import DataError, ModelError
from edgeq.ports import STATES_ENTRY, read_io, write_states
from edgeq.qtypes import quantize
from edgeq.runtime import Session

STATES = {"total": "sum"}
X = np.asarray([[1, 2, 3]], np.float32)


def running_sum() -> bytes:
    value = Value((1, 3), "float32")
    steps = (
        Step("ADD", ("x", "total"), {"sum": value}),
        Step("MUL", ("sum", "sum"), {"square": value}),
    )
    made = OneOp("ADD", {"x": value, "total": value}, steps).build()
    return edited(made, _give_both)


def _give_both(tree: Any) -> None:
    """Makes the sum an output beside the square."""
    graph, (signature,) = tree.subgraphs[0], tree.signatureDefs
    total = next(i for i, tensor in enumerate(graph.tensors) if tensor.name == b"sum")
    graph.outputs = np.asarray([*graph.outputs, total], np.int32)
    entry = type(signature.outputs[0])()
    entry.name, entry.tensorIndex = b"sum", total
    signature.outputs = [*signature.outputs, entry]


def named(tflite: bytes) -> bytes:
    return edited(tflite, lambda tree: write_states(tree, tuple(STATES.items())))


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(named(running_sum()), threads=1)


def test_states_stay_inside(session: Session) -> None:
    stream = session.stream()
    for count in (1, 2, 3):
        assert stream.run(X)["square"].tolist() == ((count * X) ** 2).tolist()
        assert stream.states["total"].tolist() == (count * X).tolist()
    stream.reset()
    assert list(stream.run({"x": X})) == ["square"]
    assert stream.states["total"].tolist() == X.tolist()


@pytest.mark.parametrize("given", [X, {"x": X}])
def test_a_run_without_states_names_the_stream(given: Any, session: Session) -> None:
    with pytest.raises(
        DataError, match=r"total.*, of which session\.stream\(\) feeds back total\. "
    ):
        session.run(given)


def test_two_streams_of_a_session_do_not_meet(session: Session) -> None:
    one, other = session.stream(), session.stream(start={"total": 10 * X})
    one.run([X])
    other.run((X,))
    one.run(X)
    assert one.states["total"].tolist() == (2 * X).tolist()
    assert other.states["total"].tolist() == (11 * X).tolist()


def test_a_file_that_names_no_states_is_told_them() -> None:
    with Session(running_sum(), threads=1) as session:
        stream = session.stream(STATES)
        stream.run(X)
        assert stream.states["total"].tolist() == X.tolist()
        with pytest.raises(
            ModelError, match="does not say which outputs are fed back: pass states"
        ):
            session.stream()
        with pytest.raises(DataError, match="states: the model has no output 'out'"):
            session.stream({"total": "out"})


def test_states_of_two_scales_are_converted() -> None:
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=(20, 3)).astype(np.float32) for name in ("x", "total")}
    edge = edgeq.export(
        running_sum(), data, recipe="int8", inputs="int8", outputs="int8", progress=False
    )
    total = next(port for port in edge.io.inputs if port.name == "total")
    given = next(port for port in edge.io.outputs if port.name == "sum")
    assert total.qparams is not None
    assert given.qparams is not None
    assert total.qparams != given.qparams
    with edge.session(threads=1) as session:
        stream = session.stream(STATES, start={"total": np.asarray([[0.5, -0.5, 0]])})
        assert stream.states["total"].dtype == np.int8
        x = np.asarray([[0.3, -0.6, 0.1]], np.float32)
        out = session.run({"x": x, "total": np.asarray([[0.5, -0.5, 0]])}, real=True)["sum"]
        assert stream.run(x, real=True).keys() == {"square"}
        assert (stream.states["total"] == quantize(out, total.qparams)).all()


WRONG: dict[str, tuple[Any, str]] = {
    "two arrays": ([X, X], "a step takes x. Received: 2 arrays"),
    "a state": ({"x": X, "total": X}, "a step takes x. Received: x, total"),
    "rows": (np.concatenate([X, X]), r"input 'x': a step takes the shape \(1, 3\)"),
    "another type": (X.astype(np.int32), "input 'x' is float32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_step_is_refused(case: str, session: Session) -> None:
    inputs, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        session.stream().run(inputs)


def test_a_start_that_is_none_is_refused(session: Session) -> None:
    with pytest.raises(DataError, match="start has 'x', which is no state; these are total"):
        session.stream(start={"x": X})
    with pytest.raises(DataError, match=r"start 'total': the state has the shape \(1, 3\)"):
        session.stream(start={"total": X[0]})


@pytest.mark.parametrize("content", [b"[1]", b"{", b"\xff", b'{"total": 1}'])
def test_a_damaged_entry_is_a_damaged_file(content: bytes) -> None:
    def spoil(tree: Any) -> None:
        entry = next(e for e in tree.metadata if e.name.startswith(STATES_ENTRY))
        tree.buffers[entry.buffer].data = np.frombuffer(content, np.uint8)

    with pytest.raises(ModelError, match=r"the states in the file's metadata .* cannot be read"):
        read_io(edited(named(running_sum()), spoil))
