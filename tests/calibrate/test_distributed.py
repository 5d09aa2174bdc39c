"""Calibration and comparison on a real Ray cluster of three nodes on this machine; one dies."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq import demo
from edgeq.calibrate import distributed
from edgeq.calibrate.calibration import Calibration
from edgeq.calibrate.run import Calibrator
from edgeq.data import cluster as machinery
from edgeq.data.input_spec import input_specs
from edgeq.data.rep_dataset import RepDataset
from edgeq.data.rows import Rows
from edgeq.errors import (
    DataError,
    DependencyError,
    EdgeqError,
    RecipeError,
    VerificationError,
)
from edgeq.export.edge_model import EdgeModel
from edgeq.model import LiteModel

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402  # it needs ray

Images = npt.NDArray[np.float32]

STORE_BYTES = 100 << 20
NODE = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
QUICK_DEATHS = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one CPU each, with this process as the driver on the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        paths = [path for path in sys.path if path]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))  # workers import this file
        head = {**NODE, "_system_config": QUICK_DEATHS, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                made.add_node(**NODE)
            ray.init(address=made.address, log_to_driver=False)
            made.wait_for_nodes()
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


class SlowImages:
    """Images that take their time to read, and a note of which node has read which."""

    def __init__(self, images: Images, notes: Path) -> None:
        self.images = images
        self.notes = notes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Images:
        node = ray.get_runtime_context().get_node_id()
        with (self.notes / node).open("a") as stream:
            stream.write(f"{index}\n")
        time.sleep(0.05)
        return self.images[index : index + 1]


def read_by(notes: Path) -> dict[str, list[int]]:
    """Indices that each node has read."""
    return {file.name: [int(i) for i in file.read_text().split()] for file in notes.iterdir()}


def remove_at_work(cluster: Any, node: Any, notes: Path) -> threading.Thread:
    """Kills a node as soon as it has read three items."""

    def watch() -> None:
        while len(read_by(notes).get(node.node_id, [])) < 3:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_a_node_that_dies_changes_nothing(cluster: Any, tmp_path: Path, observer: str) -> None:
    images = demo.load_data().calibration[:96]
    expected = edgeq.calibrate(demo.float_model_path(), images, observer=observer)
    doomed = list(cluster.worker_nodes)[-1]
    watcher = remove_at_work(cluster, doomed, tmp_path)

    slow = SlowImages(images, tmp_path)
    found = edgeq.calibrate(demo.float_model_path(), slow, observer=observer, engine="ray")

    watcher.join(timeout=10)
    cluster.add_node(**NODE)
    assert not watcher.is_alive()
    assert found == expected
    assert found.ranges == expected.ranges
    assert found.samples == len(images)
    by_node = read_by(tmp_path)
    assert len(by_node) >= 3
    again = set(by_node.pop(doomed.node_id)) & {i for read in by_node.values() for i in read}
    assert again, "the dead node's shard was run again elsewhere"


@pytest.mark.parametrize("observer", ["percentile", "entropy", "moving_average"])
def test_the_other_observers_equal_one_process(cluster: Any, observer: str) -> None:
    images = demo.load_data().calibration[:24]
    model = demo.float_model_path()
    expected = edgeq.calibrate(model, images, observer=observer)
    found = edgeq.calibrate(model, list(images), observer=observer, engine="ray")
    if observer != "moving_average":
        assert found == expected
    for tensor, pair in expected.ranges.items():
        assert found.ranges[tensor] == pytest.approx(pair, rel=1e-6)


def test_a_sample_with_nan_is_named_by_its_place_in_the_whole(cluster: Any) -> None:
    images = demo.load_data().calibration[:40].copy()
    images[[23, 31], 0, 3, 4] = np.nan
    with pytest.raises(DataError, match=r"^sample 23, input .* is nan") as found:
        edgeq.calibrate(demo.float_model_path(), images, engine="ray")
    with pytest.raises(DataError) as expected:
        edgeq.calibrate(demo.float_model_path(), images)
    assert str(found.value) == str(expected.value)


def root_model(batch: int) -> LiteModel:
    """A model that makes NaN of negative numbers."""
    value = Value((batch, 4))
    return LiteModel(
        OneOp("SQRT", {"x": value}, (Step("SQRT", ("x",), {"y": value}, {}),)).build(), "tflite"
    )


def in_process(model: LiteModel, source: object) -> Calibration:
    return Calibrator(model, 1).run(RepDataset(source).samples(input_specs(model)))


def test_nan_inside_the_model_is_named_by_its_sample(cluster: Any) -> None:
    batches = [np.ones((1 + i % 3, 4), np.float32) for i in range(40)]
    batches[34][1, 0] = -1
    model = root_model(batch=1)
    with pytest.raises(DataError, match=r"^sample 68: SQRT") as found:
        distributed.calibrate(model, Rows(batches))
    with pytest.raises(DataError) as expected:
        in_process(model, batches)
    assert str(found.value) == str(expected.value)


def test_shards_keep_to_the_batch_of_the_model(cluster: Any) -> None:
    rows = np.arange(4 * 51, dtype=np.float32).reshape(51, 4)
    model = root_model(batch=4)
    steps: list[None] = []
    found = distributed.calibrate(model, Rows(rows), advance=lambda: steps.append(None))
    assert found == in_process(model, rows)
    assert found.samples == 12
    assert len(steps) == len(rows)


def test_unequal_items_that_straddle_shards_are_refused(cluster: Any) -> None:
    items = [np.ones((1 + i % 3, 4), np.float32) for i in range(50)]
    with pytest.raises(DataError, match="differ in their number of rows"):
        distributed.calibrate(root_model(batch=4), Rows(items))


class Broken:
    """A data set whose items cannot all be read."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Images:
        if index == 7:
            raise FileNotFoundError("image 7")
        return np.ones((1, 4), np.float32)


def test_an_error_of_the_users_own_arrives_as_it_is(cluster: Any) -> None:
    with pytest.raises(FileNotFoundError, match="image 7"):
        distributed.calibrate(root_model(batch=1), Rows(Broken()))


class Deadly(Broken):
    """A data set that ends the process which reads it."""

    def __getitem__(self, index: int) -> Images:
        os._exit(1)


def test_workers_that_always_die_end_in_an_error(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machinery, "MAX_RETRIES", 1)
    with pytest.raises(EdgeqError, match=r"items 0 to 8 .* up to 2 attempts"):
        distributed.calibrate(root_model(batch=16), Rows(Deadly()))


def test_a_mapped_file_is_sent_as_its_name(cluster: Any, tmp_path: Path) -> None:
    rows = np.arange(4 * 1000, dtype=np.float32).reshape(1000, 4)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    sent = Rows(mapped)
    assert len(pickle.dumps(sent)) < 1000
    assert len(pickle.dumps(Rows(mapped[5:]))) > 4 * rows[5:].size
    model = root_model(batch=1)
    assert distributed.calibrate(model, sent) == in_process(model, rows)
    assert distributed.calibrate(model, Rows({"x": mapped})) == in_process(model, rows)


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: (i for i in range(3)), "a list, an array"),
        (lambda: lambda: iter([1]), "a list, an array"),
        (lambda: "images.npy", "a list, an array"),
        (lambda: type("Loader", (), {"dataset": []})(), r"\.dataset"),
    ],
)
def test_what_cannot_be_indexed_is_refused(make: Callable[[], object], advice: str) -> None:
    with pytest.raises(DataError, match=rf"pass .*{advice}.* engine='local'"):
        edgeq.calibrate(demo.float_model_path(), make(), engine="ray")


def test_data_that_cannot_be_sent_is_refused(cluster: Any) -> None:
    class Locked(Broken):
        def __init__(self) -> None:
            self.lock = threading.Lock()

    with pytest.raises(DataError, match="cannot be pickled"):
        distributed.calibrate(root_model(batch=1), Rows(Locked()))


@pytest.fixture(scope="module")
def edge() -> EdgeModel:
    return edgeq.export(demo.float_model_path(), demo.load_data().calibration[:24])


def right_logit(outputs: Images, targets: npt.NDArray[np.int64]) -> float:
    """A metric of one's own: the mean of the right class's logit."""
    return float(outputs[np.arange(len(targets)), targets].mean())


METRICS: dict[str, Any] = {"accuracy": "accuracy", "top5": "top5", "own": right_logit}


@pytest.mark.slow
def test_a_comparison_is_that_of_one_process_though_a_node_dies(
    cluster: Any, tmp_path: Path, edge: EdgeModel
) -> None:
    images, labels = demo.load_data().test[:96], demo.load_data().labels[:96]
    expected = edgeq.compare(edge, edge, images, labels=labels, metrics=METRICS)
    doomed = list(cluster.worker_nodes)[-1]
    watcher = remove_at_work(cluster, doomed, tmp_path)

    slow = SlowImages(images, tmp_path)
    found = edgeq.compare(edge, edge, slow, labels=labels, metrics=METRICS, engine="ray")

    watcher.join(timeout=10)
    cluster.add_node(**NODE)
    assert not watcher.is_alive()
    assert found == expected
    assert found.samples == len(images)
    by_node = read_by(tmp_path)
    again = set(by_node.pop(doomed.node_id)) & {i for read in by_node.values() for i in read}
    assert again, "the dead node's shard was run again elsewhere"


def test_an_evaluation_is_that_of_one_process(cluster: Any, edge: EdgeModel) -> None:
    pairs = list(zip(demo.load_data().test[:30], demo.load_data().labels, strict=False))
    expected = edgeq.evaluate(edge, pairs, metrics=METRICS)
    assert edgeq.evaluate(edge, pairs, metrics=METRICS, engine="ray", threads=2) == expected


def test_batches_with_labels_are_cut_into_shards(cluster: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(51, 4)).astype(np.float32)
    labels = np.arange(51) % 4
    model = LiteModel(
        OneOp(
            "ABS", {"x": Value((4, 4))}, (Step("ABS", ("x",), {"y": Value((4, 4))}, {}),)
        ).build(),
        "tflite",
    )
    expected = edgeq.evaluate(model, rows, labels, metrics={"rows": lambda o, t: float(len(o))})
    chosen = {"accuracy": "accuracy", "rows": lambda o, t: float(len(o))}
    found = edgeq.evaluate(model, {"x": rows}, labels, metrics=chosen, engine="ray")
    assert found["rows"] == expected["rows"] == 48
    assert found["accuracy"] == (np.abs(rows[:48]).argmax(1) == labels[:48]).mean()


@pytest.mark.parametrize(
    ("float_op", "edge_op", "kind", "who"),
    [
        ("SQRT", "ABS", DataError, "float model itself"),
        ("ABS", "SQRT", VerificationError, "exported model"),
    ],
)
def test_what_is_not_finite_is_named_by_its_sample(
    cluster: Any, float_op: str, edge_op: str, kind: type[EdgeqError], who: str
) -> None:
    value = Value((1, 4))
    models = [
        OneOp(name, {"x": value}, (Step(name, ("x",), {"y": value}, {}),)).build()
        for name in (float_op, edge_op)
    ]
    batches = [np.ones((1 + i % 3, 4), np.float32) for i in range(40)]
    batches[34][1, 0] = -1
    with pytest.raises(kind, match=rf"^sample 68: output 'y' of the {who}") as found:
        edgeq.compare(*models, batches, engine="ray")
    with pytest.raises(kind) as expected:
        edgeq.compare(*models, batches)
    assert str(found.value) == str(expected.value)


def test_a_label_that_is_no_class_is_named_by_its_sample(cluster: Any, edge: EdgeModel) -> None:
    labels = np.zeros(30, int)
    labels[[17, 23]] = 10
    with pytest.raises(DataError, match=r"^sample 17: the label 10 is no class"):
        edgeq.evaluate(edge, demo.load_data().test[:30], labels, engine="ray")


def test_labels_are_counted_before_any_work(edge: EdgeModel) -> None:
    with pytest.raises(DataError, match="there are 3 labels for 4 items"):
        edgeq.evaluate(edge, list(demo.load_data().test[:4]), [1, 2, 3], engine="ray")


def slower_from_behind(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Blocks end in another order than that of the data."""
    time.sleep(0.2 if row["place"] == 0 else 0.0)
    return {name: value for name, value in row.items() if name != "place"}


@pytest.fixture(scope="module")
def ray_data(cluster: Any, edge: EdgeModel) -> Any:
    """48 labelled test images of the demo in 4 blocks; the first is the last to be made."""
    data = pytest.importorskip("ray.data", reason="needs pip install 'ray[data]'")
    images, labels = demo.load_data().test[:48], demo.load_data().labels[:48]
    name = edge.io.inputs[0].name
    rows = [
        {name: image, "class": int(label), "place": place}
        for place, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    return data.from_items(rows, override_num_blocks=4).map(slower_from_behind)


@pytest.mark.slow
def test_a_ray_dataset_is_compared_in_its_order(cluster: Any, ray_data: Any, edge: Any) -> None:
    images, labels = demo.load_data().test[:48], demo.load_data().labels[:48]
    expected = edgeq.compare(edge, edge, images, labels=labels, metrics=METRICS)
    asked: dict[str, Any] = {"labels": "class", "metrics": METRICS}
    assert edgeq.compare(edge, edge, ray_data, **asked, engine="ray") == expected
    assert not ray_data.context.execution_options.preserve_order
    unlabelled = ray_data.drop_columns(["class"])
    asked["labels"] = labels
    assert edgeq.compare(edge, edge, unlabelled, **asked, engine="ray") == expected
    evaluated = edgeq.evaluate(edge, ray_data, "class", engine="ray")
    assert evaluated == {"accuracy": expected.metrics["accuracy"].edge_value}


@pytest.mark.slow
def test_a_ray_dataset_calibrates_like_an_array(cluster: Any, ray_data: Any) -> None:
    images = demo.load_data().test[:48]
    model = demo.float_model_path()
    found = edgeq.calibrate(model, ray_data.drop_columns(["class"]), observer="mse", engine="ray")
    assert found == edgeq.calibrate(model, images, observer="mse")
    assert found.samples == 48


@pytest.mark.slow
def test_a_ray_dataset_with_other_columns_is_refused(cluster: Any, ray_data: Any) -> None:
    with pytest.raises(DataError, match="sample 0 names the input 'class', which the model"):
        edgeq.calibrate(demo.float_model_path(), ray_data, engine="ray")


@pytest.mark.slow
def test_nan_in_a_ray_dataset_is_named_by_its_row(cluster: Any, ray_data: Any, edge: Any) -> None:
    name = edge.io.inputs[0].name

    def spoilt(row: dict[str, Any]) -> dict[str, Any]:
        first = row[name] == demo.load_data().test[41]
        return {name: np.where(first.all(), np.float32(np.nan), row[name])}

    with pytest.raises(DataError, match=rf"^sample 41, input '{name}': .* is nan"):
        edgeq.compare(edge, edge, ray_data.map(spoilt), engine="ray")


@pytest.mark.slow
def test_an_empty_ray_dataset_is_refused(cluster: Any, ray_data: Any, edge: Any) -> None:
    with pytest.raises(DataError, match="the representative data is empty"):
        edgeq.compare(edge, edge, ray_data.filter(lambda row: False), engine="ray")


@pytest.mark.slow
def test_a_ray_dataset_goes_with_ray(cluster: Any, ray_data: Any, edge: Any) -> None:
    with pytest.raises(DataError, match=r"cannot be iterated: .*iter_rows"):
        edgeq.compare(edge, edge, ray_data)


WITHOUT_A_CLUSTER = """
import ray, edgeq
from edgeq import demo
images = demo.load_data().calibration[:8]
found = edgeq.calibrate(demo.float_model_path(), images, engine="ray")
assert found == edgeq.calibrate(demo.float_model_path(), images)
assert not ray.is_initialized()
"""


def test_ray_is_started_and_stopped_for_one_calibration() -> None:
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    command = [sys.executable, "-c", WITHOUT_A_CLUSTER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_missing_ray_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"pip install 'edgeq\[distributed\]'"):
        edgeq.calibrate("no such model", np.zeros((1, 1, 28, 28)), engine="ray")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine must be one of local, ray"),
        ({"engine": "ray", "checkpoint": print}, "neither start nor checkpoint"),
    ],
)
def test_options_that_do_not_go_together(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        edgeq.calibrate(demo.float_model_path(), np.zeros((1, 1, 28, 28)), **options)


@pytest.mark.parametrize(
    ("count", "batch", "wanted"), [(1, 1, 8), (51, 4, 8), (3, 4, 2), (0, 1, 1)]
)
def test_shards_cover_everything_once(count: int, batch: int, wanted: int) -> None:
    shards = machinery._shards(count, batch, wanted)
    assert [i for shard in shards for i in shard] == list(range(count))
    assert len(shards) <= wanted
    assert all(len(shard) % batch == 0 for shard in shards[:-1])
    assert all(shard or not count for shard in shards)
