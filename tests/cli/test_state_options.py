"""Models with states on the command line: sequences in files and functions, and what is neither."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from file_parts import values
from one_op import OneOp, Step, Value

import edgeq

STEP = OneOp(
    "SPLIT/step",
    {"x": Value((1, 3)), "h": Value((1, 2))},
    (
        Step("CONCATENATION", ("x", "h"), {"both": Value((1, 5))}, {"axis": 1}),
        Step("FULLY_CONNECTED", ("both", 0.4 * values(4, 5, seed=1), None), {"s": Value((1, 4))}),
        Step("TANH", ("s",), {"t": Value((1, 4))}),
        Step(
            "SPLIT", (np.int32(1), "t"), {"y": Value((1, 2)), "h_out": Value((1, 2))},
            {"numSplits": 2},
        ),
    ),
)  # fmt: skip
SEQUENCES = np.random.default_rng(0).normal(size=(12, 7, 3)).astype(np.float32)
START = np.full((1, 2), 0.25, np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a model with a state, and the same sequences in every form."""
    (tmp_path / "step.tflite").write_bytes(STEP.build())
    np.save(tmp_path / "all.npy", SEQUENCES)
    np.savez(tmp_path / "all.npz", x=SEQUENCES)
    np.savez(tmp_path / "start.npz", h=START)
    np.save(tmp_path / "flat.npy", SEQUENCES[0, :, 0])
    (tmp_path / "each").mkdir()
    for number, sequence in enumerate(SEQUENCES):
        np.save(tmp_path / "each" / f"{number:02}.npy", sequence)
    (tmp_path / "streamed.py").write_text(
        "import numpy as np\nimport edgeq\n"
        "def arrays():\n    yield from np.load('all.npy')\n"
        "def sequences():\n    start = {'h': np.full((1, 2), 0.25, np.float32)}\n"
        "    return edgeq.Sequences(list(np.load('all.npy')), {'h': 'h_out'}, start)\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


OPTIONS = ("--state", "h=h_out", "--state-start", "start.npz")
FORMS = {
    "an array": ("all.npy", OPTIONS),
    "named arrays": ("all.npz", OPTIONS),
    "a folder": ("each", OPTIONS),
    "a function of arrays": ("streamed:arrays", OPTIONS),
    "a function of Sequences": ("streamed:sequences", ()),
    "places": ("all.npy", ("--state", "1=1", "--state-start", "by_place.npz")),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_sequences_makes_the_same_file(form: str, folder: Path) -> None:
    data, options = FORMS[form]
    np.savez(folder / "by_place.npz", **{"1": START})
    expected = edgeq.export(
        STEP.build(), edgeq.Sequences(list(SEQUENCES), {"h": "h_out"}, {"h": START}), recipe="int8"
    )
    found = run(
        "export", "step.tflite", "--data", data, *options, "-o", "int8.tflite", "--recipe", "int8"
    )
    assert found.exit_code == 0, found.output
    assert Path("int8.tflite").read_bytes() == expected.tflite


def test_what_judges_carries_the_states(folder: Path) -> None:
    data = ("--data", "all.npy", *OPTIONS)
    made = run("export", "step.tflite", *data, "-o", "int8.tflite", "--recipe", "int8")
    assert made.exit_code == 0, made.output
    compared = run(
        "compare", "step.tflite", "int8.tflite", *data, "--json", "c.json", "--report", "c.html"
    )
    assert compared.exit_code == 0, compared.output
    outputs = json.loads(Path("c.json").read_text())["outputs"]
    assert all(len(output["drift"]["tenths_db"]) == 7 for output in outputs)
    assert 'id="drift"' in Path("c.html").read_text()
    checked = run("check", "step.tflite", "int8.tflite", *data, "--min-sqnr-db", "15")
    assert checked.exit_code == 0, checked.output
    debugged = run("debug", "step.tflite", "int8.tflite", *data)
    assert debugged.exit_code == 0, debugged.output


FAILURES = {
    "no output": ("all.npy", ("--state", "h"), "--state is INPUT=OUTPUT, such as h_in=h_out"),
    "twice": ("all.npy", ("--state", "h=y", "--state", "h=h_out"), "--state names an input twice"),
    "no such output": ("all.npy", ("--state", "h=z"), "states: the model has no output 'z'"),
    "a start alone": ("all.npy", OPTIONS[2:], "--state-start needs --state INPUT=OUTPUT"),
    "a start of another kind": (
        "all.npy", (*OPTIONS[:2], "--state-start", "all.npy"), "--state-start is a .npz file",
    ),
    "no steps": (
        "flat.npy", OPTIONS, "sequence 0: with --state, data have an axis of steps behind that of",
    ),
    "states named twice": (
        "streamed:sequences", OPTIONS, "which name their states: leave --state out",
    ),
    "no sequences": (
        "streamed:number", OPTIONS, "the function of --data returns the sequences",
    ),
    "a table": (
        "table.csv", OPTIONS, "with --state, --data is .npy (sequences, steps, ...), .npz of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_what_is_no_sequence_is_said_in_a_sentence(case: str, folder: Path) -> None:
    data, options, message = FAILURES[case]
    (folder / "table.csv").write_text("1,2,3\n4,5,6\n")
    found = run("export", "step.tflite", "--data", data, *options, "-o", "int8.tflite")
    assert found.exit_code == 2, found.output
    assert message in " ".join(found.stderr.split())
    assert "Traceback" not in found.output
