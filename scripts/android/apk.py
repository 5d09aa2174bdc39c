"""Builds the signed .apk of `android_demo/` without Gradle and Google's SDK."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZIP_DEFLATED, ZipFile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from android.toolchain import (
    ANDROID,
    GET,
    MIN_SDK,
    PACKAGE,
    PACKAGES,
    PROJECT,
    TARGET_SDK,
    build_bridge,
    dex,
    gradle_version,
    kotlinc,
    missing,
    run,
    shrink,
)

NAMESPACE = "http://schemas.android.com/apk/res/android"
MAIN = PROJECT / "app" / "src" / "main"
SOURCES = [
    PROJECT / "core" / "src" / "main",
    PROJECT / "jni" / "src" / "main" / "kotlin",
    MAIN / "kotlin",
    PROJECT / "app" / "src" / "jni",
]
STORED = (".tflite", ".png")
"""Assets that are read where they are, or hold nothing to compress."""


def build_apk(assets: Path, work: Path, output: Path) -> Path:
    """Builds the app.

    Args:
        assets: The models, `model.json` files and samples.
        work: Folder for what comes of each step, emptied before.
        output: The .apk to write.
    """
    for name in ("quantized", "float"):
        if not (assets / name / "model.tflite").is_file():
            raise SystemExit(f"{assets} holds no {name} model; run scripts/android_assets")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    apk = link_resources(assets, work)
    compile_classes(work)
    with ZipFile(apk, "a", ZIP_DEFLATED) as archive:
        for name, path in (("classes.dex", write_dex(work)), *libraries(work)):
            archive.write(path, name)
    aligned = work / "aligned.apk"
    run("zipalign", "-f", "4", apk, aligned)
    output.parent.mkdir(parents=True, exist_ok=True)
    sign(aligned, output)
    return output


def link_resources(assets: Path, work: Path) -> Path:
    """Compiles layouts and strings; gives an .apk without code and writes `R.java`."""
    run("aapt2", "compile", "--dir", MAIN / "res", "-o", work / "resources.zip")
    apk = work / "unaligned.apk"
    stored = [word for suffix in STORED for word in ("-0", suffix)]
    run(
        "aapt2", "link", "-o", apk, "-I", PACKAGES / "android.jar",
        "--manifest", write_manifest(work), "--java", work / "R",
        "--min-sdk-version", MIN_SDK, "--target-sdk-version", TARGET_SDK,
        "--version-code", "1", "--version-name", gradle_version("app"),
        "-A", assets, *stored, work / "resources.zip",
    )  # fmt: skip
    return apk


def write_manifest(work: Path) -> Path:
    """The app's manifest with what Gradle adds from its build file."""
    ElementTree.register_namespace("android", NAMESPACE)
    manifest = ElementTree.parse(MAIN / "AndroidManifest.xml")
    manifest.getroot().set("package", PACKAGE)
    # Compressed libraries make a third of the download; they are unpacked once, when installed.
    manifest.find("application").set(f"{{{NAMESPACE}}}extractNativeLibs", "true")
    path = work / "AndroidManifest.xml"
    manifest.write(path, encoding="utf-8", xml_declaration=True)
    return path


def compile_classes(work: Path) -> None:
    """Compiles `R.java` and the app."""
    resources = work / "R" / Path(*PACKAGE.split(".")) / "R.java"
    run("javac", "-Xlint:-options", "--release", "8", "-d", work / "classes", resources)
    kotlinc(SOURCES, work / "classes", work / "classes")


def write_dex(work: Path) -> Path:
    """The app's code and what it needs of Kotlin's library."""
    shrink(work / "classes", work / "shrunk.jar")
    dex(work / "shrunk.jar", work / "classes.dex")
    return work / "classes.dex"


def libraries(work: Path) -> Iterator[tuple[str, Path]]:
    """LiteRT and the bridge to it, for each kind of device."""
    for abi in ANDROID:
        for path in (abi.library, build_bridge(abi, work / abi.name)):
            yield f"lib/{abi.name}/{path.name}", path


def sign(aligned: Path, output: Path) -> None:
    """Signs with a key of this checkout: enough to install, not to publish."""
    key = PACKAGES / "debug.jks"
    if not key.exists():
        run(
            "keytool", "-genkeypair", "-keystore", key, "-storepass", "android", "-alias", "debug",
            "-keyalg", "RSA", "-keysize", "2048", "-validity", "10000", "-dname", "CN=debug",
        )  # fmt: skip
    run(
        "apksigner", "sign", "--ks", key, "--ks-pass", "pass:android",
        "--min-sdk-version", MIN_SDK, "--v4-signing-enabled", "false",
        "--out", output, aligned,
    )  # fmt: skip


def main() -> None:
    """Builds from the project's own assets."""
    parser = argparse.ArgumentParser(prog="scripts/build_apk", description=__doc__)
    default = PROJECT / "build" / "edgeq-demo.apk"
    parser.add_argument("--output", type=Path, default=default, help=f"default: {default.name}")
    output = parser.parse_args().output
    if missing():
        raise SystemExit(f"{', '.join(missing())} missing; run {GET}")
    build_apk(MAIN / "assets", PROJECT / "build" / "apk", output)
    print(f"wrote {output}; install it by: adb install -r {output}")


if __name__ == "__main__":
    main()
