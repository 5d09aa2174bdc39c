"""Sequences of samples without states: how they become whole samples, and what is no sequence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import edgeq
from edgeq.data import cluster
from edgeq.data.held_out import HeldOutSequences
from edgeq.data.input_spec import InputSpec
from edgeq.data.labels import Labels
from edgeq.data.sequences import SequenceData, read_data, repeatable
from edgeq.data.steps import Step
from edgeq.errors import DataError
from edgeq.ports import IO, Port

X, H = InputSpec("x", (1, 3), "float32"), InputSpec("h", (1, 2), "float32")
IO_XH = IO(
    (Port("x", X.shape, "float32"), Port("h", H.shape, "float32")),
    (
        Port("y", (1, 4), "float32"),
        Port("h_out", (1, 2), "float32"),
        Port("flat", (2,), "float32"),
        Port("whole", (1, 2), "int32"),
    ),
)
ZEROS = np.zeros((1, 2), np.float32)
STATES = {"h": "h_out"}


def array(steps: int, start: float = 0.0) -> np.ndarray:
    return (start + np.arange(steps * 3).reshape(steps, 3)).astype(np.float32)


def bound(sequences: Any, start: Any = None, labels: Labels | None = None) -> SequenceData:
    made = read_data(edgeq.Sequences(sequences, STATES, start), labels)
    assert isinstance(made, SequenceData)
    made._places = IO_XH.state_places(STATES)
    return made


def steps(sequences: Any, **settings: Any) -> list[Step]:
    return list(bound(sequences, **settings).samples((X, H)))  # type: ignore[arg-type]


FORMS: dict[str, Any] = {
    "arrays": [array(3), array(2, 9)],
    "one array": np.stack([array(3), array(3, 9)]),
    "dicts of arrays": [{"x": array(3)}, {"x": array(2, 9)}],
    "lists of samples": [list(array(3)[:, None]), list(array(2, 9))],
    "tuples": [[(row,) for row in array(3)], [(row,) for row in array(2, 9)]],
    "dicts": [[{"x": row} for row in array(3)], [{"x": row} for row in array(2, 9)]],
    "generators": ((row for row in rows) for rows in (array(3), array(2, 9))),
    "functions": [lambda: iter(array(3)), lambda: iter(array(2, 9))],
    "a function": lambda: [array(3), array(2, 9)],
}


@pytest.mark.parametrize("form", FORMS)
def test_sequences_of_any_form_become_steps(form: str) -> None:
    found = steps(FORMS[form])
    assert [step.place for step in found] == [0, 1, 2, 0, 1, 2][: len(found)]
    assert [step[0].shape for step in found] == [(1, 3)] * len(found)
    assert found[3][0][0, 0] == 9
    assert all((step[1] == 0).all() for step in found)


def test_states_come_from_the_step_before() -> None:
    first, second = steps([array(2)], start={"h": ZEROS + 5})
    given = [np.ones((1, 4)), np.full((1, 2), 7.0)]
    assert first.behind(given) is first
    assert (first[1] == 5).all()
    assert (second.behind(given)[1] == 7).all()
    assert second.behind(given).place == 1


def test_labels_are_of_steps() -> None:
    found = steps([array(2), array(1)], labels=Labels([4, 5, 6]))
    assert [step[2].item() for step in found] == [4, 5, 6]
    with pytest.raises(DataError, match="there are 2 labels for 3 items"):
        steps([array(2), array(1)], labels=Labels([4, 5]))


def test_the_number_of_steps_is_known_where_it_can_be() -> None:
    assert bound([array(3), array(2)]).length == 5
    assert bound(iter([array(3)])).length is None
    assert bound([iter(array(3))]).length is None


def test_data_can_be_made_to_be_read_often() -> None:
    once = edgeq.Sequences(iter([iter(array(2))]), STATES)
    often = repeatable(once)
    assert [len(list(sequence)) for _ in range(2) for sequence in often] == [2, 2]
    assert repeatable(iter([1])) == [1]
    plain = np.zeros(3)
    assert repeatable(plain) is plain


def test_a_sample_to_trace_with_has_the_start() -> None:
    x, start = array(1), {"h": ZEROS + 1}
    named = bound([[{"x": x}]], start).first_sample()
    assert list(named) == ["x", "h"]
    assert [a.shape for a in bound([[x]], start).first_sample()] == [(1, 3), (1, 2)]
    by_place = read_data(edgeq.Sequences([[x]], {0: 1}, {0: ZEROS}))
    assert [a.shape for a in by_place.first_sample()] == [(1, 2), (1, 3)]


def held(lengths: list[int]) -> HeldOutSequences:
    return HeldOutSequences(steps([array(n, 100 * i) for i, n in enumerate(lengths)]))


def test_every_tenth_sequence_is_kept_back_whole() -> None:
    made = held([4] * 20)
    passed = list(made)
    assert made.independent
    assert len(passed) == 18 * 4
    assert [step.place for step in made.samples] == [0, 1, 2, 3] * 2  # type: ignore[attr-defined]
    assert [step[0][0, 0] for step in made.samples[::4]] == [900, 1900]
    assert [step.place for step in made.trials(9)] == [0, 1, 2, 3] * 8  # type: ignore[attr-defined]
    assert not any(isinstance(sample, Step) for sample in made.passed)


def test_few_sequences_judge_themselves() -> None:
    made = held([150, 4])
    assert len(list(made)) == 154
    assert not made.independent
    assert len(made.samples) == 154
    assert len(made.judged(16)) == made.LEAST_STEPS
    assert len(made.passed) == 41


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(array.nbytes for array in steps([array(1)])[0])
    monkeypatch.setattr(HeldOutSequences, "HELD_BYTES", 6 * size)
    made = held([4] * 20)
    assert len(list(made)) + len(made.samples) == 80
    assert len(made.samples) == 6


def endless() -> Iterator[np.ndarray]:
    return itertools.repeat(np.zeros((1, 3), np.float32))


BAD_DATA: dict[str, tuple[Any, str]] = {
    "no sequences": ([], "the representative data is empty"),
    "an empty one": ([array(2), array(0)], "sequence 1 is empty: give at least one sample"),
    "no data": ([array(2), 5], "sequence 1: rep_dataset must be an array"),
    "a dict": ({"x": array(2)}, "sequences are a list of them, or another iterable"),
    "another shape": ([array(2), [array(1)[:, :2]]], "sequence 1, step 0, input 'x': the model"),
    "rows": ([[array(2)]], r"sequence 0, step 0, input 'x': a step is one run of the model, which "
             r"takes \(1, 3\). Received: \(2, 3\)"),
    "NaN": ([array(2) * np.nan], "sequence 0, step 0, input 'x': the value at"),
    "states": ([[(array(1), ZEROS)]], "sequence 0, step 0 has 2 arrays, but the model takes 1"),
    "an endless one": ([endless()], "has not ended after 1,000 items"),
    "endless ones": (([array(1)] for _ in endless()), "has not ended after 1,000 items"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_sequences_are_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.data.rep_dataset.MOST_ITEMS", 1000)
    data, message = BAD_DATA[case]
    with pytest.raises(DataError, match=message):
        steps(data)


BAD_SETTINGS: dict[str, tuple[Any, Any, str]] = {
    "no states": ({}, None, "states is a dict of outputs by the input"),
    "a list": (["h"], None, "states is a dict of outputs by the input"),
    "start of what is none": (STATES, {"x": ZEROS}, "start has 'x', which is no state; these are"),
    "start is no dict": (STATES, ZEROS, "start is a dict of arrays by input, or None"),
    "start is no array": (STATES, {"h": [[1], [1, 2]]}, "start 'h': list is not an array"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_are_refused(case: str) -> None:
    states, start, message = BAD_SETTINGS[case]
    with pytest.raises(DataError, match=message):
        edgeq.Sequences([array(1)], states, start)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.zeros((1, 3), np.float32), r"start, input 'h': the model takes shape \(1, 2\)"),
        (np.zeros((2, 2), np.float32), r"start, input 'h': the model takes shape \(1, 2\)"),
        (np.zeros((1, 2), np.int32), "start, input 'h': the model takes float32"),
        (np.full((1, 2), np.inf), "start, input 'h': the value at"),
    ],
)
def test_a_start_of_another_form_is_refused(start: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        steps([array(1)], start={"h": start})


PORTS: dict[str, tuple[Any, str]] = {
    "no such input": ({"state": "h_out"}, r"no input 'state'; it has 'x' \(0\), 'h' \(1\)"),
    "no such output": ({"h": "out"}, "no output 'out'; it has 'y' \\(0\\), 'h_out' \\(1\\)"),
    "no such place": ({2: 1}, "no input 2"),
    "a flag": ({True: 1}, "no input True"),
    "another shape": (
        {"h": "y"},
        r"input 'h' is float32 \(1, 2\), and output 'y' float32 \(1, 4\)",
    ),
    "another rank": ({"h": "flat"}, "must have one form"),
    "another type": ({"h": "whole"}, r"output 'whole' int32 \(1, 2\)"),
    "twice": ({"h": "h_out", 1: 1}, "input 'h' is there twice"),
}


@pytest.mark.parametrize("case", PORTS)
def test_states_that_a_model_does_not_have_are_refused(case: str) -> None:
    states, message = PORTS[case]
    with pytest.raises(DataError, match=f"states: .*{message}"):
        IO_XH.state_places(states)


def test_states_are_named_by_names_or_places() -> None:
    assert IO_XH.state_places({"h": "h_out"}) == IO_XH.state_places({1: 1}) == ((1, 1),)


def test_shapes_that_only_the_model_knows_are_asked_for() -> None:
    data = read_data(edgeq.Sequences([array(2)], STATES))
    with pytest.raises(
        DataError, match=r"the shape of the state 'h' is not known before .* pass s"
    ):
        data.first_sample()
    mixed = read_data(edgeq.Sequences([[{"x": array(1)}]], {1: 1}, {1: ZEROS}))
    with pytest.raises(DataError, match="samples name their inputs, and states do not"):
        mixed.first_sample()


def test_a_cluster_cannot_run_what_needs_the_step_before() -> None:
    with pytest.raises(
        DataError, match="reads items by index on several machines, which Sequences"
    ):
        cluster.source(edgeq.Sequences([array(2)], STATES), "ray")


def test_other_data_is_read_as_ever() -> None:
    plain = read_data(np.zeros((2, 3), np.float32))
    assert not isinstance(plain, SequenceData)
    assert len(list(plain.samples((X,)))) == 2


def test_the_last_tenth_of_an_only_sequence_is_held_out_as_one_of_its_own() -> None:
    samples = [Step((array(1, i),), i, ()) for i in range(85)]
    held = HeldOutSequences(samples, 8)
    passed = list(held)
    assert held.independent
    assert [step[0][0, 0] for step in held.samples] == list(range(72, 80))
    assert [step.place for step in held.samples] == list(range(8))
    assert [step.place for step in passed] == [*range(72), *range(80, 85)]
