"""What an app has to know: in the file as TFLite metadata, and beside it as JSON."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import edgeq
from edgeq import DataError, demo
from edgeq.cli import app
from edgeq.data.readers import ImageLayout
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import unpack
from edgeq.runtime.session import Session

GRAY = ImageLayout(size=(28, 28), color="gray", mean=(0.5,), std=(0.5,))
RGB = ImageLayout(size=(28, 28), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """MediaPipe's generated reader; its package is not imported, which would ask for cameras."""
    found = importlib.util.find_spec("mediapipe")
    if found is None or not found.submodule_search_locations:
        pytest.skip("mediapipe is not installed (scripts/test installs it)")
    path = Path(
        found.submodule_search_locations[0], "tasks/metadata/metadata_schema_py_generated.py"
    )
    spec = importlib.util.spec_from_file_location("metadata_schema", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def saved(exported: EdgeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.tflite"
    return exported.save(path, exported.describe(demo.CLASS_NAMES, GRAY))


def read(schema: ModuleType, tflite: bytes) -> Any:
    tree = unpack(tflite)
    (entry,) = (e for e in tree.metadata if e.name == b"TFLITE_METADATA")
    content = bytes(tree.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    return schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(content, 0))


def test_the_standard_reader_finds_it_in_the_file(
    saved: Path, schema: ModuleType, exported: EdgeModel
) -> None:
    found = read(schema, saved.read_bytes())
    assert found.description.decode() == f"exported by edgeq {edgeq.__version__}, recipe int8"
    assert found.minParserVersion == b"1.0.0"
    (graph,) = found.subgraphMetadata
    (given,), (made,) = graph.inputTensorMetadata, graph.outputTensorMetadata
    assert given.name.decode() == exported.io.inputs[0].name
    assert given.content.contentPropertiesType == schema.ContentProperties.ImageProperties
    assert given.content.contentProperties.colorSpace == schema.ColorSpaceType.GRAYSCALE
    (unit,) = given.processUnits
    assert unit.optionsType == schema.ProcessUnitOptions.NormalizationOptions
    np.testing.assert_allclose(unit.options.mean, [127.5])
    np.testing.assert_allclose(unit.options.std, [127.5])
    np.testing.assert_allclose([given.stats.min, given.stats.max], [[-1.0], [1.0]], rtol=1e-6)
    (file,) = made.associatedFiles
    assert (file.name, file.type) == (
        b"labels.txt", schema.AssociatedFileType.TENSOR_AXIS_LABELS,
    )  # fmt: skip
    (own,) = graph.customMetadata
    assert own.name == b"edgeq"
    assert bytes(own.data).decode() == saved.with_suffix(".json").read_text()


def test_colours_have_a_mean_each(schema: ModuleType, exported: EdgeModel) -> None:
    port = exported.io.inputs[0]
    rgb = replace(exported.io, inputs=(replace(port, shape=(1, 28, 28, 3)),))
    made = replace(exported.describe(), io=rgb, images=RGB, nhwc=(port.name,))
    (given,) = read(schema, made.embedded(exported.tflite)).subgraphMetadata[0].inputTensorMetadata
    np.testing.assert_allclose(given.processUnits[0].options.mean, np.multiply(255, RGB.mean))
    np.testing.assert_allclose(given.processUnits[0].options.std, np.multiply(255, RGB.std))
    assert given.content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
    assert made.to_dict()["inputs"][0]["layout"] == "nhwc"


def test_the_json_beside_the_file_has_what_an_app_needs(saved: Path, exported: EdgeModel) -> None:
    fields = json.loads(saved.with_suffix(".json").read_text())
    (given,) = fields.pop("inputs")
    assert given == {
        **exported.io.inputs[0].to_dict(), "layout": "nchw", "mean": [0.5], "std": [0.5],
        "crop": "center", "resize": None,
    }  # fmt: skip
    assert fields == {
        "edgeq": edgeq.__version__, "recipe": "int8", "calibration": exported.calibration.digest,
        "outputs": [exported.io.outputs[0].to_dict()], "states": [],
        "labels": list(demo.CLASS_NAMES),
    }  # fmt: skip


def test_the_file_is_the_same_model_with_a_zip_behind_it(saved: Path, exported: EdgeModel) -> None:
    content = saved.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode().split("\n") == [*demo.CLASS_NAMES, ""]
    image = demo.load_data().test[:1]
    with Session(saved) as session, exported.session() as plain:
        for name, expected in plain.run(image).items():
            np.testing.assert_array_equal(session.run(image)[name], expected)
        assert session.coverage() == plain.coverage()
    made = exported.describe(demo.CLASS_NAMES, GRAY)
    assert made.embedded(exported.tflite) == content
    assert made.embedded(content) == content  # what was there is replaced
    assert edgeq.lint(content).errors == ()


def test_the_digest_tells_calibrations_apart(exported: EdgeModel) -> None:
    same = replace(exported.calibration)
    assert same.digest == exported.calibration.digest
    assert replace(same, samples=same.samples + 1).digest != same.digest


def test_what_does_not_fit_is_told(exported: EdgeModel) -> None:
    with pytest.raises(
        DataError, match=r"there are 3 class names, but no output .* last axes are 10"
    ):
        exported.describe(("a", "b", "c"))
    with pytest.raises(DataError, match="no input takes rgb images with 3 channels in nchw"):
        exported.describe(images=RGB)


def test_the_command_writes_both(
    tmp_path: Path, demo_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.tflite").write_bytes(demo_model.tflite)
    Path("names.txt").write_text("\n".join(demo.CLASS_NAMES))
    Path("photos").mkdir()
    pixels = np.rint((demo.load_data().calibration[:12, 0] + 1) * 127.5).astype(np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(f"photos/{index:02}.png")
    options = ["--data-option", "mean=0.5", "--data-option", "std=0.5", "--recipe", "int8"]
    command = ["export", "model.tflite", "--data", "photos", "-o", "int8.tflite", *options]
    found = CliRunner().invoke(app, [*command, "--class-names", "names.txt"])
    assert found.exit_code == 0, found.output
    fields = json.loads(Path("int8.json").read_text())
    assert (fields["inputs"][0]["mean"], fields["labels"]) == ([0.5], list(demo.CLASS_NAMES))
    assert zipfile.is_zipfile("int8.tflite")
    again = CliRunner().invoke(app, [*command[:5], "new.tflite", "--class-names", "no.txt"])
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "cannot read the class names no.txt" in again.stderr
