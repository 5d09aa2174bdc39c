"""The Android demo: its APK is built, and its classes run beside Python on the native LiteRT."""

from __future__ import annotations

import fcntl
import json
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import edgeq
from edgeq import demo
from edgeq.cli import app
from edgeq.errors import DataError, RecipeError
from edgeq.export.deploy.android import ASSETS, write_assets
from edgeq.files import write_whole
from edgeq.ports import IO, read_io

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

import android_vectors
from android import apk, assets, jvm_tests, toolchain

TESTS = 21

needs_packages = pytest.mark.skipif(
    bool(toolchain.missing()),
    reason=f"the Android build lacks {', '.join(toolchain.missing())}; run {toolchain.GET}",
)


@pytest.fixture(scope="session")
def built(run_folder: Path) -> Path:
    """A folder with the exported models, `assets`, `app.apk`, `work` of its build, and `tests`.

    Made once, by the first of the processes that share the tests.
    """
    folder = run_folder / "android"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "app.apk").exists():
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    made = assets.export_demo()
    made.save(folder / "quantized.tflite")
    write_whole(folder / "float.tflite", made.float_model.tflite)
    assets.write(folder / "assets", made)
    (folder / "vectors").mkdir()
    android_vectors.write_vectors(folder / "vectors", folder / "assets")
    unfinished = apk.build_apk(folder / "assets", folder / "work", folder / "unfinished.apk")
    toolchain.build_bridge(toolchain.HOST, folder / "host")
    jvm_tests.compile_tests(folder / "work" / "classes", folder / "tests")
    unfinished.rename(folder / "app.apk")


def run_jvm_tests(built: Path, classes: Path) -> int:
    return jvm_tests.run_tests(classes, built / "tests", built / "host", built / "vectors")


@needs_packages
def test_the_app_computes_what_python_computes(built: Path) -> None:
    assert run_jvm_tests(built, built / "work" / "classes") == TESTS


@needs_packages
def test_the_shipped_code_computes_what_python_computes(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built / "app.apk") as archive:
        archive.extract("classes.dex", tmp_path)
    # Debian's enjarify is for Debian's Python, not for one that comes earlier in PATH.
    back, path = tmp_path / "back.jar", {"PATH": "/usr/bin:/bin"}
    toolchain.run("enjarify", tmp_path / "classes.dex", "-o", back, env=path)
    assert run_jvm_tests(built, back) == TESTS


@needs_packages
def test_a_logit_that_is_not_pythons_is_noticed(built: Path, tmp_path: Path) -> None:
    vectors = tmp_path / "vectors"
    vectors.mkdir()
    for path in (built / "vectors").iterdir():
        (vectors / path.name).symlink_to(path)
    logits = np.fromfile(vectors / "quantized.logits", np.float32)
    logits[-1] = np.nextafter(logits[-1], np.float32(1e9))
    (vectors / "quantized.logits").unlink()
    logits.tofile(vectors / "quantized.logits")
    with pytest.raises(SystemExit, match=r"int8LogitsAreThoseOfPythonBitForBit[\s\S]*Failures: 2"):
        jvm_tests.run_tests(built / "work" / "classes", built / "tests", built / "host", vectors)


@needs_packages
def test_the_apk_is_signed_aligned_and_what_it_says(built: Path) -> None:
    path = built / "app.apk"
    verified = toolchain.run("apksigner", "verify", "--verbose", path)
    assert verified.startswith("Verifies\n")
    assert "v2 scheme (APK Signature Scheme v2): true" in verified
    toolchain.run("zipalign", "-c", "4", path)
    badging = toolchain.run("aapt", "dump", "badging", path)
    for line in (
        f"package: name='org.edgeq.demo' versionCode='1' versionName='{version('edgeq')}'",
        "sdkVersion:'26'", "targetSdkVersion:'35'", "native-code: 'arm64-v8a' 'x86_64'",
        "launchable-activity: name='org.edgeq.demo.MainActivity'",
    ):  # fmt: skip
        assert line in badging


@needs_packages
def test_the_apk_has_code_that_every_android_runs(built: Path) -> None:
    code = toolchain.run("dexdump", "-d", built / "work" / "classes.dex")
    assert "Lorg/edgeq/demo/core/Classifier;" in code
    assert "invoke-virtual" in code
    assert "invoke-custom" not in code
    assert "invoke-polymorphic" not in code


@needs_packages
def test_the_apk_holds_the_exported_models_as_they_are(built: Path) -> None:
    with zipfile.ZipFile(built / "app.apk") as archive:
        for name in ("quantized", "float"):
            entry = archive.getinfo(f"assets/{name}/model.tflite")
            assert entry.compress_type == zipfile.ZIP_STORED
            assert archive.read(entry) == (built / f"{name}.tflite").read_bytes()


@needs_packages
def test_the_apk_holds_every_layout_and_library(built: Path) -> None:
    with zipfile.ZipFile(built / "app.apk") as archive:
        layouts = [n for n in archive.namelist() if n.startswith("res/layout")]
        for abi in toolchain.ANDROID:
            assert archive.read(f"lib/{abi.name}/{abi.library.name}") == abi.library.read_bytes()
            assert f"lib/{abi.name}/libedgeq_jni.so" in archive.namelist()
    sources = (toolchain.PROJECT / "app" / "src" / "main" / "res").glob("layout*/*.xml")
    assert sorted(layouts) == sorted(f"res/{p.parent.name}/{p.name}" for p in sources)


def test_what_is_missing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no quantized model; run scripts/android_assets"):
        apk.build_apk(tmp_path, tmp_path / "work", tmp_path / "app.apk")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project as the app's, without its files."""
    (tmp_path / "app" / "src" / "main").mkdir(parents=True)
    return tmp_path


def export_to(project: Path, data: Path, *options: str) -> Any:
    arguments = [
        "export", str(demo.float_model_path()), "--data", str(data), "-o",
        str(project / "int8.tflite"), "--recipe", "int8", "--android", str(project), *options,
    ]  # fmt: skip
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_export_puts_a_classifier_of_ones_own_into_the_app(project: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index, pixels in enumerate(assets.original_test_pixels()[:5]):
        Image.fromarray(pixels).save(images / f"{index}.png")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(demo.CLASS_NAMES))
    found = export_to(
        project, images, "--class-names", str(names), "--inputs", "int8", "--outputs", "int8",
        "--layout", "nhwc", "--data-option", "scale=1", "--data-option", "mean=127.5",
        "--data-option", "std=127.5",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    folder = project / ASSETS / "quantized"
    tflite = (folder / "model.tflite").read_bytes()
    assert tflite == (project / "int8.tflite").read_bytes()
    described = json.loads((folder / "model.json").read_text())
    (port,) = read_io(tflite).inputs
    assert described["inputs"] == [
        {**port.to_dict(), "layout": "nhwc", "mean": [0.5], "std": [0.5], "crop": "center",
         "resize": None}
    ]  # fmt: skip
    assert described["labels"] == list(demo.CLASS_NAMES)
    assert (described["recipe"], described["edgeq"]) == ("int8", version("edgeq"))
    plain = json.loads((project / ASSETS / "float" / "model.json").read_text())
    assert (plain["recipe"], plain["inputs"][0]["dtype"]) == ("float", "float32")


def test_what_the_app_cannot_take_is_refused(demo_files: Path, project: Path) -> None:
    names = demo_files / "names.txt"
    data = demo_files / "images.npy"
    assert export_to(project, data).stderr == (
        "error: --android needs --class-names, a text file with one name a line\n"
    )
    names.write_text("\n")
    assert "holds no class names" in export_to(project, data, "--class-names", str(names)).stderr
    names.write_text("cat\ndog\n")
    refused = export_to(demo_files / "nowhere", data, "--class-names", str(names))
    assert "nowhere is no Android project: it has no app/src/main" in refused.stderr
    refused = export_to(project, data, "--class-names", str(names))
    assert "tells 10 classes apart, but there are 2 class names" in refused.stderr
    assert not (project / ASSETS).exists()


def test_types_and_shapes_that_the_app_cannot_take_are_refused(exported: edgeq.EdgeModel) -> None:
    float_model = read_io(exported.float_model.tflite)
    bytes_in = replace(float_model.inputs[0], dtype="uint8")
    report = replace(exported.report, io=IO((bytes_in,), float_model.outputs))
    with pytest.raises(RecipeError, match="is uint8; the Android app passes float32 or int8"):
        write_assets(Path("nowhere"), replace(exported, report=report), assets.LAYOUT, ["a"])
    report = replace(exported.report, io=IO(float_model.outputs, float_model.outputs))
    with pytest.raises(DataError, match="has one input of four dimensions and one output"):
        write_assets(Path("nowhere"), replace(exported, report=report), assets.LAYOUT, ["a"])
