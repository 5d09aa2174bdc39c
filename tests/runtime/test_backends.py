"""Other run times than the newest: the last tflite-runtime, TensorFlow's, and one of 2021."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from old_runtimes import LAST, OLD, OldRuntime
from one_op import CASES, OneOp
from packages import Unavailable

import edgeq
from edgeq.errors import RecipeError, UnsupportedOpError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import parse
from edgeq.runtime import Session
from edgeq.versions import as_version, first_runtime, needed_runtime, written

Images = npt.NDArray[np.float32]
ONE_OP = {case.label: case for case in CASES}


def environment(runtime: OldRuntime) -> OldRuntime:
    try:
        runtime.python()
    except Unavailable as error:
        pytest.skip(str(error))
    return runtime


@pytest.fixture(scope="module")
def last() -> OldRuntime:
    return environment(LAST)


@pytest.fixture(scope="module")
def old() -> OldRuntime:
    return environment(OLD)


_SESSION = """
import json, sys
import numpy as np
from edgeq.errors import EdgeqError
from edgeq.runtime import Session, load_backend
images = np.load(sys.argv[1])
found = {"backend": load_backend().describe(), "numpy": np.__version__}
for name in sys.argv[2:]:
    try:
        with Session(name, threads=1) as session:
            np.save(name + ".npy", session.run(images, real=True)[session.output_names[0]])
            found[name] = session.describe()
    except EdgeqError as error:
        found[name] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def sessions(last: OldRuntime, folder: Path, images: Images, models: Mapping[str, bytes]) -> Any:
    """What sessions on the last tflite-runtime say of models."""
    np.save(folder / "images.npy", images)
    for name, tflite in models.items():
        (folder / name).write_bytes(tflite)
    paths = [folder / name for name in models]
    found = json.loads(last.call(_SESSION, folder / "images.npy", *paths))
    return {key.removeprefix(f"{folder}/"): value for key, value in found.items()}


def test_a_session_runs_on_the_last_tflite_runtime(
    last: OldRuntime, tmp_path: Path, exported: EdgeModel, demo_images: Images
) -> None:
    models = {
        "int8": exported.tflite,
        "float": exported.float_model.tflite,
        "new": exported_case("FULLY_CONNECTED", recipe="dynamic_int8").tflite,
    }
    found = sessions(last, tmp_path, demo_images, models)
    assert found["backend"] == "tflite_runtime 2.14.0"
    assert found["numpy"].startswith("1.")
    assert found["int8"].startswith("30 ops on tflite_runtime 2.14.0: xnnpack")
    assert found["new"] == (
        "ModelError: tflite_runtime 2.14.0 is too old for the model: it does not know "
        "FULLY_CONNECTED version 12, which came with 2.17. Install a newer one, or export the "
        "model with min_runtime='2.14'"
    )
    with exported.session("none") as session:
        (expected,) = session.run(demo_images, real=True).values()
    scale = exported.plan.tensors[exported.rewritten.output_tensors()[0][1].index].scale[0]
    assert abs(np.load(tmp_path / "int8.npy") - expected).max() < 12 * scale


def exported_case(label: str, **options: Any) -> EdgeModel:
    case: OneOp = ONE_OP[label]
    return edgeq.export(case.build(), case.draw(12), progress=False, **options)


def sample_of(edge: EdgeModel, case: OneOp) -> list[npt.NDArray[Any]]:
    return list(edge.io.quantize(case.draw(1)[0]))


def agrees(edge: EdgeModel, sample: Any, found: Any) -> bool:
    """Whether an old run time computes what the newest does, but for roundings."""
    with Session(edge.tflite, "none", threads=1) as session:
        session.invoke(sample)
        expected = session.outputs()
    near = [
        abs(one.astype(float) - other.astype(float)).max() <= (4 if one.dtype == np.int8 else 0.2)
        for one, other in zip(expected, found, strict=True)
    ]
    return all(near)


def test_files_for_an_old_run_time_run_on_it(
    old: OldRuntime, tmp_path: Path, for_edgetpu: EdgeModel, demo_images: Images
) -> None:
    """Five models as the Edge TPU compiler would have to parse them."""
    image = demo_images[:1].transpose(0, 2, 3, 1)
    models = {"demo": (for_edgetpu, [for_edgetpu.io.inputs[0].quantize(image)])}
    for label in ("FULLY_CONNECTED", "CONV_2D", "MEAN", "RESIZE_BILINEAR"):
        edge = exported_case(label, target="edgetpu")
        models[label] = edge, sample_of(edge, ONE_OP[label])
    files = {name: (edge.tflite, sample) for name, (edge, sample) in models.items()}
    for name, found in old.run(tmp_path, files).items():
        assert not isinstance(found, str), found
        assert agrees(*models[name], found), name
        graph = parse(models[name][0].tflite).graphs[0]
        assert all(needed_runtime(graph, op) <= (2, 5) for op in graph.operators)


def test_an_old_run_time_refuses_or_misreads_what_is_said_to_be_too_new(
    old: OldRuntime, tmp_path: Path
) -> None:
    labels = ("GELU", "FULLY_CONNECTED")
    made = {label: exported_case(label, recipe="int8") for label in labels}
    made["dynamic"] = exported_case("FULLY_CONNECTED", recipe="dynamic_int8")
    cases = {"dynamic": ONE_OP["FULLY_CONNECTED"], **{label: ONE_OP[label] for label in labels}}
    files = {n: (edge.tflite, sample_of(edge, cases[n])) for n, edge in made.items()}
    found = old.run(tmp_path, files)
    for name, edge in made.items():
        graph = parse(edge.tflite).graphs[0]
        assert max(needed_runtime(graph, op) for op in graph.operators) > (2, 7), name
    assert "builtin_code out of range: 150" in found["GELU"]
    assert "'FULLY_CONNECTED' version '12'" in found["dynamic"]
    assert not agrees(
        made["FULLY_CONNECTED"], files["FULLY_CONNECTED"][1], found["FULLY_CONNECTED"]
    )


def test_what_an_old_run_time_lacks_is_refused_at_export() -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        exported_case("GELU", recipe="int8", min_runtime="2.7")
    assert str(caught.value) == (
        "the file cannot be made for the run time 2.7: GELU at y0 (op 0) version 1 needs 2.9. "
        "Express them by older ops, or export with min_runtime='2.9'"
    )
    for wrong in ("2.4", "new"):
        with pytest.raises(RecipeError, match=r"min_runtime must be .* from 2\.5 on"):
            exported_case("GELU", min_runtime=wrong)


def test_versions_are_read_and_compared_as_numbers() -> None:
    assert as_version("2.14.1") == (2, 14) > as_version("2.9")
    assert written((2, 14)) == "2.14"
    assert first_runtime("CONV_2D", 3) == (2, 5)
    assert first_runtime("FULLY_CONNECTED", 12) == (2, 17)
    assert first_runtime("STABLEHLO_SCATTER", 1) == (2, 17)


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_a_session_runs_on_tensorflow(exported: EdgeModel, demo_images: Images) -> None:
    with (
        Session(exported.tflite, backend="tensorflow.lite") as session,
        exported.session() as expected,
    ):
        found, right = session.run(demo_images), expected.run(demo_images)
    assert all(abs(found[name] - right[name]).max() < 0.2 for name in right)
