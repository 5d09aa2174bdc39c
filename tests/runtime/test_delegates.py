"""External delegates, by a small one of our own: options, pieces, fallback and every failure."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

from edgeq.errors import DelegateError, ModelError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import pack, schema, unpack
from edgeq.model import LiteModel
from edgeq.runtime import Session, edgetpu_devices
from edgeq.runtime.delegates import edgetpu_options

SOURCE = Path(__file__).resolve().parents[1] / "support" / "external" / "delegate.c"
Images = npt.NDArray[np.float32]
Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compiles the delegate with gcc."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing: apt-get install gcc")
    folder = tmp_path_factory.mktemp("delegate")

    def compiled(name: str, *flags: str) -> Path:
        command = ["gcc", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", *flags]
        subprocess.run([*command, str(SOURCE), "-o", str(folder / name)], check=True)
        return folder / name

    return compiled


@pytest.fixture(scope="module")
def library(build: Build) -> str:
    return str(build("libtest.so"))


@pytest.fixture(scope="module")
def edgetpu(build: Build) -> Path:
    """Stands in for libedgetpu on a machine with two devices."""
    return build("libedgetpu.so.1", "-DDEVICES=2")


@pytest.fixture(scope="module")
def compiled() -> bytes:
    """A RESHAPE as an Edge TPU's op: what the compiler makes of a model, in small."""
    step = Step("RESHAPE", ("x", np.asarray([8], np.int32)), {"y": Value((8,))})
    tree = unpack(OneOp("RESHAPE", {"x": Value((2, 4))}, (step,)).build())
    (code,) = tree.operatorCodes
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = b"edgetpu-custom-op"
    (op,) = tree.subgraphs[0].operators
    op.builtinOptionsType, op.builtinOptions = 0, None
    return pack(tree)


def test_options_arrive_and_nodes_are_seen(
    library: str, tmp_path: Path, exported: EdgeModel
) -> None:
    log = tmp_path / "log"
    options = {"log": log, "claim": "RESHAPE", "speed": 3, "warm": True}
    with Session(exported.tflite, library, options=options):
        pass
    said = log.read_text()
    for line in ("option claim=RESHAPE", "option speed=3", "option warm=True"):
        assert line in said
    assert f"saw {len_ops(exported)} nodes, claims 1\npartition of 1\n" in said
    assert said.endswith("destroyed\n")


def len_ops(edge: EdgeModel) -> int:
    with edge.session("none") as session:
        return session.coverage().total


def test_what_a_delegate_leaves_runs_on_xnnpack_with_the_same_numbers(
    library: str, exported: EdgeModel, demo_images: Images, tmp_path: Path
) -> None:
    options = {"claim": "RESHAPE", "log": tmp_path / "log"}
    with Session(exported.tflite, library, options=options) as session, exported.session() as plain:
        own, rest = session.placement().values()
        assert session.coverage() == own
        assert (own.partitions, own.delegated) == (1, {1})
        assert (rest.partitions, rest.delegated) == (2, {0, *range(2, own.total)})
        assert f"{library} 1 in 1 piece(s), xnnpack 29 in 2 piece(s), plain" in session.describe()
        found, expected = session.run(demo_images), plain.run(demo_images)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_a_delegate_that_takes_nothing_is_reported(
    library: str, exported: EdgeModel, demo_images: Images, tmp_path: Path
) -> None:
    with Session(exported.tflite, library, options={"log": tmp_path / "log"}) as session:
        assert session.placement()[library].delegated == frozenset()
        assert f"{library} 0, xnnpack 30 in 1 piece(s)" in session.describe()
        session.run(demo_images[:1])


@pytest.mark.parametrize(
    ("fail", "text"),
    [
        ("create", r"libtest\.so refused: the test device is on fire \(options: fail=create, log="),
        ("silently", r"libtest\.so refused: it gives no reason \(options: fail=silently"),
        ("prepare", r"libtest\.so failed on the model: the test delegate has no memory left"),
    ],
)
def test_a_delegate_that_refuses_is_quoted(
    library: str, exported: EdgeModel, tmp_path: Path, fail: str, text: str
) -> None:
    with pytest.raises(DelegateError, match=text):
        Session(exported.tflite, library, options={"fail": fail, "log": tmp_path / "log"})


def test_a_delegate_that_fails_while_it_runs_is_quoted(
    library: str, exported: EdgeModel, demo_images: Images, tmp_path: Path
) -> None:
    options = {"fail": "invoke", "claim": "RESHAPE", "log": tmp_path / "log"}
    with (
        Session(exported.tflite, library, options=options) as session,
        pytest.raises(ModelError, match="failed to run the model: the test device was unplugged"),
    ):
        session.run(demo_images[:1])


def test_libraries_that_are_none_are_told_apart(
    build: Build, tmp_path: Path, demo_model: LiteModel
) -> None:
    model = demo_model.tflite
    (tmp_path / "text.so").write_text("not a library")
    other = tmp_path / "other.so"
    subprocess.run(["gcc", "-shared", "-o", other, "-xc", "/dev/null"], check=True)
    needy = tmp_path / "needy.so"
    gone = tmp_path / "libgone.so"
    subprocess.run(["gcc", "-shared", "-o", gone, "-xc", "/dev/null"], check=True)
    command = ["gcc", "-shared", "-o", needy, "-xc", "/dev/null", "-Wl,--no-as-needed"]
    subprocess.run([*command, f"-L{tmp_path}", "-lgone"], check=True)
    gone.unlink()
    for delegate, text in {
        str(tmp_path / "missing.so"): "missing.so does not exist",
        "libnowhere.so": "there is no delegate library libnowhere.so on the library path",
        str(tmp_path / "text.so"): "text.so is not a shared library for this machine: ",
        str(other): "no LiteRT delegate: it has no function tflite_plugin_create_delegate",
        str(needy): "needy.so needs the library libgone.so, which is not installed",
    }.items():
        with pytest.raises(DelegateError, match=text):
            Session(model, delegate)


def test_the_edge_tpu_runs_what_was_compiled_for_it(
    edgetpu: Path,
    compiled: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGEQ_EDGETPU", str(edgetpu))
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    options = {"device": "usb", "Performance": "Low"}
    with Session(compiled, "edgetpu", options=options) as session:
        assert session.coverage().delegated == {0}
        assert (session.run(values)["y"] == values.ravel()).all()
    assert "option device=usb:0\noption Performance=Low\n" in capfd.readouterr().err
    assert [d.device for d in edgetpu_devices()] == ["usb:0", "pci:0"]
    assert edgetpu_devices()[1].path == "/dev/apex_0"


def test_models_and_the_edge_tpu_that_do_not_fit_are_told(
    edgetpu: Path, compiled: bytes, exported: EdgeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEQ_EDGETPU", str(edgetpu))
    with pytest.raises(ModelError, match="not compiled for the Edge TPU, so that all of it would"):
        exported.session("edgetpu")
    with pytest.raises(ModelError, match="was compiled for the Edge TPU and runs nowhere else"):
        Session(compiled)


def test_each_state_of_the_edge_tpu_has_its_sentence(
    build: Build, edgetpu: Path, compiled: bytes, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    def refusal(device: str = "", path: Path | str = edgetpu) -> str:
        monkeypatch.setenv("EDGEQ_EDGETPU", str(path))
        with pytest.raises(DelegateError) as caught:
            Session(compiled, "edgetpu", options={"device": device} if device else None)
        return str(caught.value)

    absent = build("libnone.so.1", "-DDEVICES=0")
    assert refusal(path=absent).startswith("no Edge TPU was found: plug it in")
    assert refusal(path="libedgetpu.so.99").startswith(
        "the Edge TPU's run time libedgetpu.so.99 is not installed. On Debian"
    )
    monkeypatch.setenv("TEST_EDGETPU_BUSY", "1")
    assert "is busy or may not be opened (usb:0, pci:0 are there)" in refusal()
    assert refusal("usb:7") == "there is no Edge TPU usb:7; this machine has usb:0, pci:0"
    assert refusal(":2") == "there is no Edge TPU :2; this machine has usb:0, pci:0"
    assert "is busy" in refusal(":1")
    assert "is busy" in refusal("pci")
    assert "must be usb, pci, usb:<n>, pci:<n> or :<n>. Received: 'usb7'" in refusal("usb7")
    monkeypatch.setenv("EDGEQ_EDGETPU", library)
    with pytest.raises(DelegateError, match="is not the Edge TPU's run time: it lists no devices"):
        edgetpu_devices()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {}),
        ({"device": "pci"}, {"device": "pci"}),
        ({"Performance": "High"}, {"Performance": "High", "device": ":0"}),
        ({"device": "usb:1", "Performance": "Low"}, {"device": "usb:1", "Performance": "Low"}),
    ],
)
def test_options_of_the_edge_tpu_name_a_device_where_they_must(
    given: dict[str, str], told: dict[str, str]
) -> None:
    assert edgetpu_options(given) == told


def test_an_unknown_performance_is_refused() -> None:
    with pytest.raises(DelegateError, match=r"one of Low, Medium, High, Max. Received: 'fast'"):
        edgetpu_options({"Performance": "fast"})
