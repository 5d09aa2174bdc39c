"""The report and what it is fed with: facts on the terminal, JSON for programs, fair warnings."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any

import pytest
from IPython.core.formatters import IPythonDisplayFormatter

from edgeq.export.edge_model import EdgeModel
from edgeq.fidelity.parts import Part
from edgeq.fidelity.sqnr import Drift, SampleSpread
from edgeq.flatbuffer import parse
from edgeq.ports import IO, Port
from edgeq.report import Report
from edgeq.report.output_fidelity import OutputFidelity
from edgeq.terminal.progress import Progress


def fidelity(name: str, sqnr_db: float, largest: float) -> OutputFidelity:
    return OutputFidelity(name, sqnr_db, largest, largest / 4, 0.75, None)


def along(*tenths_db: float) -> OutputFidelity:
    return replace(fidelity("y", 30.0, 1), drift=Drift(tenths_db))


def spread_over(low_db: float, high_db: float) -> OutputFidelity:
    return replace(fidelity("y", 31.4, 1), samples=SampleSpread(31.0, 28.0, low_db, high_db))


def report(**changes: Any) -> Report:
    """A report without anything to warn of, but for `changes`."""
    facts: dict[str, Any] = {
        "float_bytes": 400_000,
        "edge_bytes": 100_000,
        "op_counts": {"int8": 71, "quantize/dequantize": 2},
        "transposes": 1,
        "io": IO((Port("x", (1, 4), "float32"),), (Port("logits", (1, 2), "float32"),)),
        "outputs": (fidelity("logits", 34.56, 0.25), fidelity("boxes", 21.04, 1.5)),
        "judged_samples": 16,
        "delegated_ops": 70,
        "total_ops": 73,
        "partitions": 2,
        "undelegated": ("GELU at a (op 3)", "GELU at b (op 5)", "TILE at c (op 9)"),
        "float_latency_ms": 8.0,
        "edge_latency_ms": 2.0,
        "float_ops": {},
        "remarks": {},
        "obstacles": {},
        "folded": (),
        "runtime": "ai_edge_litert 2.3.0",
        "int8_dot_product": True,
        "bound_db": 23.456,
        "recipe": "mine",
        "target": "xnnpack",
        "calibrated_samples": 184,
        "independent": True,
        "seconds": {"trace": 1.25, "verify": 0.5},
    }
    return Report(**{**facts, **changes})


def test_print_and_notebooks_show_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    made = report()
    print(made)
    assert capsys.readouterr().out == made.text()
    assert IPythonDisplayFormatter()(made) is True
    assert capsys.readouterr().out.splitlines()[0] == made.headline


def test_the_first_line_says_how_good_it_is() -> None:
    assert report().text().splitlines()[0] == (
        "0.25 of the float model's size, 0.25 of its time here, 21.0 dB"
    )


def test_the_first_line_says_what_few_samples_leave_open() -> None:
    outputs = (fidelity("z", 40.0, 1), spread_over(24.6, 34.7))
    few, many = (report(judged_samples=count, outputs=outputs) for count in (9, 64))
    assert few.headline.endswith("31.4 dB (down to 24.6 on others: 9 judge it)")
    assert many.headline.endswith("31.4 dB")
    better = (fidelity("z", 30.0, 1), spread_over(24.6, 34.7))  # the worst one now, on others not
    assert "30.0 dB (down to 24.6" in report(judged_samples=9, outputs=better).headline
    best = (fidelity("z", 26.0, 1), spread_over(24.6, 34.7))  # about as bad on others
    assert report(judged_samples=9, outputs=best).headline.endswith("26.0 dB")


def test_the_first_line_leaves_out_samples_that_say_less_than_a_part() -> None:
    part = replace(spread_over(24.6, 34.7), parts=(Part("rows 2 to 3 of axis 1", 20.0, False),))
    assert report(judged_samples=9, outputs=(part,)).headline.endswith("20.0 dB")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"edge_latency_ms": 9.0}, "SLOWER than float here (recipe='auto')"),
        ({"edge_latency_ms": 9.0, "recipe": "auto"}, "SLOWER than float here (measure=True"),
        ({"op_counts": {"float32": 9}}, "everything stayed float"),
        ({"outputs": (fidelity("y", 4.0, 1.0),)}, "LOW FIDELITY: output 'y' (recipe='auto')"),
        (
            {"outputs": (fidelity("y", 19.0, 1.0),), "goal_db": 20.0},
            "BELOW THE GOAL of 20 dB: output 'y'",
        ),
    ],
)
def test_the_first_line_says_what_falls_short(changes: dict[str, Any], said: str) -> None:
    made = report(**changes)
    assert said in made.headline
    assert made.text().startswith(made.headline[:60])
    assert report().shortfalls() == []


@pytest.mark.parametrize(
    "fact",
    [
        "recipe mine, target xnnpack",
        "400.0 kB", "100.0 kB", "0.25",
        "8.00 ms", "2.00 ms",
        "71 int8, 2 quantize/dequantize",
        "70 of 73, 2 partitions",
        "2 GELU, 1 TILE",
        "SQNR of logits", "34.6 dB", "SQNR of boxes", "21.0 dB",
        "what rounding noise alone would leave", "23.5 dB",
        "calibrated on 184 samples", "judged on 16", "held-out", "ai_edge_litert 2.3.0", "1.8 s",
    ],
)  # fmt: skip
def test_the_text_has_the_facts(fact: str) -> None:
    assert fact in " ".join(report().text().split())


def test_reasons_and_notes_are_in_the_text() -> None:
    text = report(
        float_ops={"SOFTMAX at head.attention (op 7)": "it loses two points"},
        notes=("the module was in training mode",),
    ).text()
    assert "what stayed float, and why" in text
    assert "SOFTMAX at head.attention (op 7)" in text
    assert "it loses two points" in text
    assert "note: the module was in training mode" in text


def test_one_partition_is_not_many() -> None:
    assert "70 of 73, 1 partition " in report(partitions=1).text()


@pytest.mark.parametrize("text", ["[bold]", "[/bold]", "model[head]", "a[0]", "[red]x[/red]"])
def test_square_brackets_of_the_user_are_text(text: str) -> None:
    written = report(
        recipe=text,
        outputs=(fidelity(text, 1.0, 1.0),),
        float_ops={text: f"because {text}"},
        notes=(f"see {text}",),
    ).text()
    for wanted in (
        f"recipe {text}", f"SQNR of {text}", f"because {text}", f"note: see {text}",
        f"output '{text}' keeps",
    ):  # fmt: skip
        assert wanted in written


def test_long_layer_paths_are_written_in_full() -> None:
    path = "/".join(f"block{i}" for i in range(60))
    text = report(float_ops={f"GELU at {path} (op 3)": "why"}).text()
    assert path in "".join(text.replace("│", "").split()).replace("GELUat", "")


def test_json_has_every_fact_and_the_ratios() -> None:
    made = report(float_ops={"GELU at a (op 3)": "why"}, notes=("note",), folded=("pad",))
    fields = json.loads(made.to_json())
    assert fields.keys() == made.to_dict().keys()
    assert fields["outputs"][0] == {
        "name": "logits", "sqnr_db": 34.56, "largest_error": 0.25, "mean_error": 0.0625,
        "cosine": 0.75, "top1_agreement": None, "top5_agreement": None, "parts": [],
        "samples": None, "are_indices": False, "drift": None,
    }  # fmt: skip
    assert (fields["size_ratio"], fields["latency_ratio"]) == (0.25, 0.25)
    assert fields["float_ops"] == {"GELU at a (op 3)": "why"}
    assert (fields["notes"], fields["folded"], fields["independent"]) == (["note"], ["pad"], True)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_json_stays_strict_where_a_number_is_not_finite(value: float) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    made = report(outputs=(fidelity("y", value, value),))
    fields = json.loads(made.to_json(), parse_constant=refuse)
    (output,) = fields["outputs"]
    assert (output["sqnr_db"], output["largest_error"], output["cosine"]) == (None, None, 0.75)


@pytest.mark.parametrize(
    ("changes", "warnings"),
    [
        ({}, []),
        (
            {"edge_latency_ms": 10.0},
            ["the exported model takes 1.25x the float model's time here; 2 GELU, 1 TILE run "
             "outside the delegate"],
        ),
        (
            {"edge_latency_ms": 10.0, "undelegated": ()},
            ["the exported model takes 1.25x the float model's time here"],
        ),
        ({"edge_latency_ms": 8.0}, []),
        (
            {"outputs": (fidelity("a", 14.9, 1), fidelity("b", 15.0, 1))},
            ["output 'a' keeps only 14.9 dB; check the task's accuracy"],
        ),
        (
            {"outputs": (fidelity("a", math.nan, 1),)},
            ["output 'a' keeps only nan dB; check the task's accuracy"],
        ),
        ({"outputs": (fidelity("a", math.inf, 0),)}, []),
        (
            {"independent": False, "judged_samples": 3},
            ["the SQNR is judged on samples that calibration may have seen; give at least 10"],
        ),
        (
            {"judged_samples": 9, "outputs": (spread_over(27.6, 34.7), spread_over(30.0, 33.0))},
            ["only 9 samples judge output 'y': others like them may leave it 27.6 dB; give 640 or "
             "more"],
        ),
        ({"judged_samples": 64, "outputs": (spread_over(27.6, 34.7),)}, []),
        (
            {"independent": False, "outputs": (along(40.0, 30.0, 20.0),)},
            ["output 'y' drifts: its SQNR in the first and last tenth of the steps is 40.0 and "
             "20.0 dB, and still falls",
             "the SQNR is judged on samples that calibration may have seen; give at least 10 "
             "sequences"],
        ),
        ({"outputs": (along(40.0, 30.0, 27.5),)}, []),
    ],
    ids=["none", "slower", "slower in the delegate", "as fast", "low SQNR", "no number",
         "no difference", "samples that were seen", "few samples", "many samples", "drift",
         "settled"],
)  # fmt: skip
def test_warnings(changes: dict[str, Any], warnings: list[str]) -> None:
    made = report(**changes)
    assert made.warnings() == warnings
    text = " ".join(made.text().split())
    assert all(f"warning: {warning}" in text for warning in warnings)
    assert text.count("warning:") == len(warnings)


def test_the_worst_output_counts() -> None:
    assert report().sqnr_db == 21.04


def test_a_real_report_agrees_with_its_file(exported: EdgeModel) -> None:
    made = exported.report
    assert made.edge_bytes == len(exported.tflite)
    assert made.float_bytes == len(exported.float_model.tflite)
    assert made.total_ops == len(parse(exported.tflite).graphs[0].operators)
    assert sum(made.op_counts.values()) == made.total_ops
    assert made.calibrated_samples + made.judged_samples == 20
    assert [o.name for o in made.outputs] == [port.name for port in exported.io.outputs]
    assert json.loads(made.to_json())["edge_bytes"] == made.edge_bytes


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Progress.make(None)
    with stages.stage("calibrate", 3) as advance:
        advance()
    assert capsys.readouterr() == ("", "")
    assert not stages.visible


@pytest.mark.parametrize("total", [3, 0, None])
def test_progress_is_drawn_on_standard_error(
    total: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where there are more steps than were announced: a batch is one item, many samples."""
    with Progress.make(True).stage("calibrate", total) as advance:
        for _ in range(5):
            advance()
    written = capsys.readouterr()
    assert written.out == ""
    assert "calibrate" in written.err


def test_progress_shows_what_a_stage_has_found(capsys: pytest.CaptureFixture[str]) -> None:
    for visible in (True, False):
        stages = Progress(visible)
        with stages.stage("search"):
            stages.tell("0.67 of float's time")
        assert ("0.67 of float's time" in capsys.readouterr().err) == visible


def test_stages_are_timed_and_add_up() -> None:
    stages = Progress()
    for _ in range(2):
        with stages.stage("plan"):
            time.sleep(0.02)
    assert stages.seconds.keys() == {"plan"}
    assert 0.04 <= stages.seconds["plan"] < 5


@pytest.mark.parametrize("visible", [False, True])
def test_an_error_in_a_stage_passes_through(visible: bool) -> None:
    stages = Progress(visible)
    with pytest.raises(KeyError), stages.stage("plan", 2):
        raise KeyError("x")
    assert stages.seconds == {}
