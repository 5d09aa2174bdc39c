"""Benchmarks of models, of their ops and of machines; nothing here depends on how long it takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from command_line import run
from one_op import CASES

import edgeq
from edgeq import demo
from edgeq.errors import RecipeError
from edgeq.export.edge_model import EdgeModel
from edgeq.export.search import fit_costs
from edgeq.export.search.costs import DYNAMIC, FORMS, KINDS, WITH_DOT_PRODUCT, Costs, Rates
from edgeq.export.search.devices import DEVICES
from edgeq.export.search.fit_costs import STEPS, fit, models, non_negative
from edgeq.export.search.op_work import kind
from edgeq.flatbuffer import parse, unpack
from edgeq.flatbuffer.graph_editor import GraphEditor
from edgeq.runtime import Session
from edgeq.runtime.benchmark import Latency, Setting, benchmark, random_sample
from edgeq.runtime.cpu import speed_hints
from edgeq.runtime.profile import op_times

Images = npt.NDArray[np.float32]


def test_percentiles_are_those_of_the_runs() -> None:
    found = Latency.of([float(n) for n in range(101)])
    assert found == Latency(median_ms=50.0, min_ms=0.0, p90_ms=90.0, p99_ms=99.0, runs=101)


def test_models_are_measured_in_turn(exported: EdgeModel) -> None:
    models = {"float": exported.float_model.tflite, "int8": exported.tflite}
    first, second = benchmark(models, Setting(threads=1), seconds=0.0)
    assert (first.name, second.name) == ("float", "int8")
    assert first.latency.runs == second.latency.runs == 3
    assert first.ratio == 1.0
    assert second.ratio == second.latency.min_ms / first.latency.min_ms
    assert first.latency.min_ms <= first.latency.median_ms <= first.latency.p99_ms
    assert second.size_bytes == len(exported.tflite)
    assert "xnnpack 30" in second.placement
    assert first.memory_mb is None or first.memory_mb > 0


def test_growing_parts_compute_what_the_model_does(
    exported: EdgeModel, demo_images: Images
) -> None:
    tree, graph = unpack(exported.tflite), parse(exported.tflite).graphs[0]
    with exported.session("none") as whole:
        (expected,) = whole.run(demo_images[:1]).values()
    for count in (1, 10, len(graph.operators)):
        editor = GraphEditor(tree)
        editor.first_ops(count)
        part = editor.finish()
        assert len(parse(part).graphs[0].operators) == count
        with Session(part, "none") as session:
            found = session.run(demo_images[:1])
    assert (next(iter(found.values())) == expected).all()


def test_every_op_gets_a_time(exported: EdgeModel) -> None:
    found = op_times(exported.tflite, Setting(threads=1), budget_s=0.0)
    graph = parse(exported.tflite).graphs[0]
    assert [(t.op, t.name) for t in found] == [(op.index, op.name) for op in graph.operators]
    assert all(t.ms >= 0 for t in found)


def test_weights_of_16_bits_are_unpacked_in_no_time(demo_images: Images) -> None:
    made = edgeq.export(
        demo.float_model_path(), demo_images[:12], recipe="float16", progress=False
    )  # fmt: skip
    found = op_times(made.tflite, Setting(threads=1), budget_s=0.0)
    assert [t.name for t in found] == [op.name for op in parse(made.tflite).graphs[0].operators]
    assert {t.ms for t in found if t.name == "DEQUANTIZE"} == {0.0}


def test_random_samples_fit_the_model(exported: EdgeModel) -> None:
    with exported.session() as session:
        session.invoke(random_sample(session.io))


def test_the_command_measures_and_writes_json(exported: EdgeModel, tmp_path: Path) -> None:
    path, out = exported.save(tmp_path / "int8.tflite"), tmp_path / "bench.json"
    done = run("bench", path, path, "--seconds", "0", "--per-op", "--json", out)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["models"][0]["latency"]["runs"] == 3
    assert found["setting"]["threads"] == 1
    assert len(found["ops"][str(path)]) == 30
    assert "ops of" in done.stdout


def test_the_command_names_what_is_missing(tmp_path: Path) -> None:
    for arguments, text in {
        (): "name a model to measure, or a file for --fit",
        (str(tmp_path / "missing.tflite"),): "cannot read the model",
        ("--fit", str(tmp_path)): "is a folder",
    }.items():
        done = run("bench", *arguments)
        assert done.exit_code == 2
        assert text in done.output


def system(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_machine_that_is_slowed_down_says_so(tmp_path: Path) -> None:
    assert speed_hints(tmp_path) == ()
    zone = "sys__class__thermal__thermal_zone0__"
    system(
        tmp_path,
        sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave\n",
        sys__devices__system__cpu__cpu1__cpufreq__scaling_governor="performance\n",
        proc__loadavg="999.4 1.0 1.0 1/2 3",
        **{
            f"{zone}temp": "78000", f"{zone}type": "cpu-thermal",
            f"{zone}trip_point_0_type": "passive", f"{zone}trip_point_0_temp": "85000",
        },
    )  # fmt: skip
    firmware = tmp_path / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    governor, heat, supply, load = speed_hints(tmp_path)
    assert governor.startswith("the CPU governor is powersave, which lowers")
    assert heat.startswith("cpu-thermal is at 78 C, and slows down from 85 C on")
    assert "voltage is too low now; it is throttled now; the supply voltage was" in supply
    assert load.startswith("about 999 processes want")
    system(tmp_path, **{f"{zone}temp": "40000"})
    assert len(speed_hints(tmp_path)) == 3


@pytest.mark.parametrize("form", FORMS)
def test_one_op_models_are_of_their_kind_and_in_the_delegate(form: str) -> None:
    for name in KINDS if form != "dynamic" else DYNAMIC:
        rows = []
        for model in models(name, form):
            graph = parse(model.tflite).graphs[0]
            assert kind(graph, graph.operators[-1]) == name
            rows.append(model.work(WITH_DOT_PRODUCT, form).counts[:2])
        with Session(model.tflite, threads=1) as session:
            assert session.coverage().partitions == 1
            session.invoke(random_sample(session.io))
        unknowns = 2 if any(count for count, _ in rows) else 1
        assert np.linalg.matrix_rank(np.asarray(rows)) == unknowns, name


def test_least_squares_keeps_to_coefficients_that_are_not_negative() -> None:
    columns = np.asarray([[1.0, 2, 1], [3, 1, 1], [2, 5, 1], [4, 4, 1]])
    ones = np.ones(4)
    exact = non_negative(columns, columns @ [2.0, 0.5, 3.0], ones)
    assert np.allclose(exact, [2.0, 0.5, 3.0])
    bounded = non_negative(columns, columns @ [2.0, -0.5, 3.0], ones)
    assert bounded[1] == 0.0
    assert min(bounded) >= 0
    assert non_negative(columns, -ones, ones) == [0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def fitted() -> Costs:
    steps: list[None] = []
    costs = fit("here", seconds=0.0, advance=lambda: steps.append(None))
    assert len(steps) == STEPS
    return costs


def test_a_fitted_table_goes_through_a_file(fitted: Costs, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(fitted.to_json())
    assert Costs.load(path) == fitted
    rates = [r for form in FORMS for r in getattr(fitted, form).values()]
    assert all(r.mac_ns >= 0 and r.element_ns >= 0 for r in rates)
    assert any(r.mac_ns > 0 for r in rates)


@pytest.mark.parametrize("form", ["float32", "int8"])
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("move", Rates(0.0, 0.03, 0.0, 5.0)),
        ("matmul", Rates(0.01, 0.05, 6.0, 150.0)),
        ("elementwise", Rates(0.0, 0.05, 3.0, 0.0)),
    ],
)
def test_a_fit_finds_what_is_not_for_each_element(
    kind: str, wanted: Rates, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times by known rates give these rates back."""
    timed = models(kind, form)
    times_ms = [model.work(WITH_DOT_PRODUCT, form).time_ns(wanted) / 1e6 for model in timed]
    monkeypatch.setattr(fit_costs, "_times_ms", lambda *_: times_ms)
    found = dataclasses.astuple(fit_costs._fitted(WITH_DOT_PRODUCT, form, timed, 0.0, 0.0))
    assert found == pytest.approx(dataclasses.astuple(wanted))


def test_a_fit_finds_what_weights_beyond_the_cache_take(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, weights = WITH_DOT_PRODUCT.int8["dense"], 4096 * 4096
    # 4,096 columns are read and written, one row counts as 16, and two launches are none
    near_ns = weights * rates.mac_ns + 2 * 4096 * rates.element_ns + 16 * rates.row_ns + 100
    monkeypatch.setattr(fit_costs, "_times_ms", lambda *_: [(near_ns + 0.05 * weights) / 1e6])
    assert fit_costs._far_byte_ns(WITH_DOT_PRODUCT, 0.0) == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("device", sorted(set(DEVICES) - {"x86-avx2"}))  # which has its own
def test_padding_keeps_its_ratio_to_what_moves_elsewhere(device: str) -> None:
    costs = DEVICES[device].costs
    own = costs.float32["move"]
    assert own.pixel_ns == pytest.approx(117 * own.element_ns, rel=0.01)
    assert costs.int8["move"].pixel_ns == own.pixel_ns


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"int8": {}}, "has no int8 rates of convolution, transposed"),
        ({"launch_ns": -1}, "numbers from 0 on. Received: -1"),
        ({"float32": 3}, "cannot be read"),
        ({"speed": 3}, "cannot be read .*speed"),
    ],
)
def test_a_table_that_is_none_is_refused(
    fitted: Costs, tmp_path: Path, change: dict[str, object], text: str
) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({**json.loads(fitted.to_json()), **change}))
    with pytest.raises(RecipeError, match=text):
        Costs.load(path)
    with pytest.raises(RecipeError, match=r"cannot read the cost table .*No such file"):
        Costs.load(tmp_path / "missing.json")


def test_auto_plans_by_the_table_that_it_is_given(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.label == "CONV_2D")
    planned = {}
    for cheap, dear in (("int8", "dynamic"), ("dynamic", "int8")):
        forms = {
            form: {k: Rates(r.mac_ns * factor, r.element_ns * factor) for k, r in row.items()}
            for form, factor in ((cheap, 0.001), (dear, 1000.0))
            for row in (getattr(WITH_DOT_PRODUCT, form),)
        }
        free = {"boundary_ns": 0.0, "launch_ns": 0.0}
        costs = dataclasses.replace(WITH_DOT_PRODUCT, **free, **forms)  # type: ignore[arg-type]
        path = tmp_path / f"{cheap}.json"
        path.write_text(costs.to_json())
        made = edgeq.plan(case.build(), case.draw(12), costs=path, progress=False)
        planned[cheap] = made.plan
    assert planned["int8"].tensors
    assert not planned["int8"].stored
    assert planned["dynamic"].stored
    assert not planned["dynamic"].tensors
