"""Names from files reach terminals, logs of CI, XML and HTML as text to read, never to obey."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import run

import edgeq
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import pack, unpack
from edgeq.foreign.shown import annotation, escape, lines, visible
from edgeq.report.verdict import CheckResult

HOSTILE = "a\x1b[2J\u202eb[/]\n::error::c ##[group]<b>\x9b"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]|^\\s*::error|##\\[", re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer.0/conv_2:x", "layer.0/conv_2:x"),
        ("größe/層", "größe/層"),
        ("onnx::Conv_12", "onnx::Conv_12"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("abc\u202egnp.exe", r"abc\u202egnp.exe"),
        ("\udcff", r"\udcff"),
        ("  ::error title=x::y", r"  :\:error title=x::y"),
        ("##[add-mask]x", r"#\#[add-mask]x"),
    ],
)
def test_what_is_hidden_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_markup_and_lines() -> None:
    assert escape("[/]\n") == r"\[/]\n"
    assert lines("one\n::warning::two\x07") == "one\n:\\:warning::two\\x07"
    assert annotation("50 %\na:b,c", is_property=True) == "50 %25%0Aa%3Ab%2Cc"


@pytest.fixture
def hostile(demo_files: Path, exported: EdgeModel) -> Path:
    """The demo with hostile names of tensors, ports and signatures."""
    for name, content in (("int8", exported.tflite), ("model", exported.float_model.tflite)):
        tree = unpack(content)
        for index, tensor in enumerate(tree.subgraphs[0].tensors):
            tensor.name = f"{HOSTILE}{index}".encode()
        signature = tree.signatureDefs[0]
        for index, entry in enumerate([*signature.inputs, *signature.outputs]):
            entry.name = f"{HOSTILE}{index}".encode()
        (demo_files / f"{name}.tflite").write_bytes(pack(tree))
    np.save(demo_files / "images.npy", np.load(demo_files / "images.npy")[:10])
    return demo_files


@pytest.mark.parametrize(
    "command",
    [
        "inspect int8.tflite", "lint int8.tflite",
        "compare model.tflite int8.tflite --data images.npy",
        "check model.tflite int8.tflite --data images.npy --min-sqnr-db 500 --github",
        "bench int8.tflite --seconds 0.1 --per-op",
        "plan model.tflite --data images.npy --recipe int8",
        "export model.tflite --data images.npy --recipe int8 -o [/].tflite",
        "compare model.tflite int8.tflite --data images.npy --report page.html",
        "compare model.tflite int8.tflite --data images.npy --output-name ::error::x",
    ],
)  # fmt: skip
def test_no_command_prints_a_name_raw(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(hostile)
    found = run(*command.split())
    printed = "\n".join(
        line for line in found.output.split("\n") if not line.startswith("::error title=edgeq ")
    )
    assert FORBIDDEN.findall(printed) == []
    assert found.exit_code in (0, 1, 2)
    assert found.exception is None or isinstance(found.exception, SystemExit)
    page = hostile / "page.html"
    if "page" in command:
        assert re.search("[\x1b\u202e\x9b]|<b>", page.read_text().split("<script>")[0]) is None


def test_reports_keep_xml_and_annotations_whole(judged: CheckResult, tmp_path: Path) -> None:
    import xml.etree.ElementTree as ElementTree

    (promise,) = judged.promises
    odd = replace(judged, promises=(replace(promise, found=HOSTILE, name="x:y,z"),))
    odd.write_junit(tmp_path / "junit.xml")
    assert ElementTree.parse(tmp_path / "junit.xml").getroot().tag == "testsuites"
    (line,) = odd.annotations()
    assert line.startswith("::error title=edgeq x%3Ay%2Cz::")
    assert FORBIDDEN.findall(line.removeprefix("::error ")) == []
    assert edgeq.CheckResult is CheckResult
