"""Sessions: names, batches, real numbers, signatures, memory without copies, and pools."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from one_op import OneOp, Step, Value

import edgeq
from edgeq.errors import DataError, DelegateError, DependencyError, ModelError
from edgeq.export.edge_model import EdgeModel
from edgeq.flatbuffer import pack, unpack
from edgeq.model import LiteModel
from edgeq.runtime import Session, SessionPool, load_backend
from edgeq.runtime.backend import BACKENDS

Images = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def integer(demo_model: LiteModel, demo_images: Images) -> EdgeModel:
    """The demo with an int8 input and a uint8 output."""
    return edgeq.export(
        demo_model.tflite, demo_images, recipe="int8", inputs="int8", outputs="uint8"
    )


def add(shape: tuple[int, ...] = (2, 3), dtype: str = "float32") -> OneOp:
    value = Value(shape, dtype)
    step = Step("ADD", ("left", "right"), {"sum": value})
    return OneOp("ADD", {"left": value, "right": value}, (step,))


def dynamic() -> bytes:
    """An ADD whose first dimension may have any size."""
    tree = unpack(add((1, 3)).build())
    for tensor in tree.subgraphs[0].tensors:
        tensor.shapeSignature = np.asarray([-1, 3], np.int32)
    return pack(tree)


def two_signatures() -> bytes:
    """`serving_default` adds; `second`, a graph of its own, takes (4, 3) instead of (2, 3)."""
    tree = unpack(add().build())
    second = copy.deepcopy(tree.subgraphs[0])
    for tensor in second.tensors:
        tensor.shape = np.asarray([4, 3], np.int32)
    tree.subgraphs.append(second)
    signature = copy.deepcopy(tree.signatureDefs[0])
    signature.signatureKey, signature.subgraphIndex = b"second", 1
    tree.signatureDefs.append(signature)
    return pack(tree)


def test_inputs_come_by_position_by_name_or_alone(exported: EdgeModel, demo_images: Images) -> None:
    image = demo_images[:1]
    with exported.session() as session:
        (name,) = session.input_names
        expected = session.run(image)
        for inputs in ([image], (image,), {name: image}):
            found = session.run(inputs)
            assert found.keys() == expected.keys() == set(session.output_names)
            assert all((found[key] == expected[key]).all() for key in expected)


def test_the_io_is_that_of_the_file(integer: EdgeModel) -> None:
    with integer.session() as session:
        assert session.io == integer.io


def test_real_numbers_are_converted_on_the_way(integer: EdgeModel, demo_images: Images) -> None:
    image, (port,) = demo_images[:1], integer.io.inputs
    with integer.session() as session:
        held = session.run(port.quantize(image))
        found = session.run(image.astype(np.float64), real=True)
        assert [a.dtype.name for a in held.values()] == ["uint8"]
        expected = integer.io.dequantize(list(held.values()))
        assert all((found[key] == expected[key]).all() for key in expected)
        with pytest.raises(DataError, match=r"is int8 of shape .* Received: float32.*real=True"):
            session.run(image)


def test_real_numbers_reach_a_float_input_as_they_are(
    exported: EdgeModel, demo_images: Images
) -> None:
    with exported.session() as session:
        plain, real = session.run(demo_images[:1]), session.run(demo_images[:1], real=True)
    assert all((plain[key] == real[key]).all() for key in plain)


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_batches_of_any_size_run_row_by_row(
    exported: EdgeModel, demo_images: Images, rows: int
) -> None:
    with exported.session() as session:
        found = session.run(demo_images[:rows])
        single = [session.run(image[None]) for image in demo_images[:rows]]
    for name, array in found.items():
        assert array.shape == (rows, 10)
        assert all((array[i] == one[name][0]).all() for i, one in enumerate(single))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_last_batch_is_filled_up_and_cut(rows: int) -> None:
    left, right = np.random.default_rng(0).random((2, rows, 3), np.float32)
    with Session(add().build()) as session:
        assert (session.run([left, right])["sum"] == left + right).all()


def test_inputs_of_different_rows_are_refused() -> None:
    with (
        Session(add().build()) as session,
        pytest.raises(DataError, match=r"need equally many rows. Received: left \(4, 3\), right"),
    ):
        session.run([np.zeros((4, 3), np.float32), np.zeros((6, 3), np.float32)])


def test_an_output_without_rows_is_not_joined() -> None:
    step = Step("MEAN", ("x", np.asarray([0], np.int32)), {"mean": Value((3,))})
    with (
        Session(OneOp("MEAN", {"x": Value((2, 3))}, (step,)).build()) as session,
        pytest.raises(DataError, match=r"'mean' of shape .* run one batch at a time"),
    ):
        session.run(np.zeros((4, 3), np.float32))


def test_a_dynamic_dimension_takes_any_size_in_one_run() -> None:
    with Session(dynamic()) as session:
        for rows in (1, 5, 2):
            left, right = np.random.default_rng(rows).random((2, rows, 3), np.float32)
            assert (session.run([left, right])["sum"] == left + right).all()
            assert session.io.inputs[0].shape == (rows, 3)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"left": 1}, "takes the inputs left, right. Received: left"),
        ([np.zeros((2, 3), np.float32)], "takes 2 inputs .* Received: 1"),
        ([np.zeros((2, 4), np.float32)] * 2, r"'left' is float32 of shape \(2, 3\). Received: .*4"),
        ([np.zeros((2, 3))] * 2, "Received: float64 .*real=True"),
    ],
)
def test_what_does_not_fit_is_named(inputs: object, text: str) -> None:
    with Session(add().build()) as session, pytest.raises(DataError, match=text):
        session.run(inputs)  # type: ignore[arg-type]


def test_signatures_are_chosen_by_key() -> None:
    model = two_signatures()
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    with Session(model, signature="second") as session:
        assert session.signatures == ("serving_default", "second")
        assert session.io.inputs[0].shape == (4, 3)
        assert (session.run([values, values])["sum"] == 2 * values).all()
        assert (session.run([values[:3]] * 2)["sum"] == 2 * values[:3]).all()
        with pytest.raises(ModelError, match="beside the main graph"):
            session.input_view("left")
    with Session(model) as session:
        assert session.io.inputs[0].shape == (2, 3)
    with pytest.raises(DataError, match="no signature 'third'; it has serving_default, second"):
        Session(model, signature="third")


def test_memory_is_filled_and_read_without_copies() -> None:
    with Session(add().build()) as session:
        session.input_view("left")[:] = 3
        session.input_view("right")[:] = 4
        session.invoke()
        assert (session.output_view("sum") == 7).all()
        assert np.shares_memory(session.output_view("sum"), session.output_view("sum"))
        held = session.input_view("left")
        with pytest.raises(DataError, match="still shows the model's memory"):
            session.invoke()
        del held
        session.invoke()
        with pytest.raises(DataError, match="no output 'left'; it has sum"):
            session.output_view("left")


def test_a_closed_session_says_so() -> None:
    session, ones = Session(add().build()), [np.ones((2, 3), np.float32)] * 2
    session.close()
    session.close()
    for use in (lambda: session.run(ones), session.describe, session.invoke, lambda: session.io):
        with pytest.raises(ModelError, match="the session is closed"):
            use()


def test_kernels_are_chosen_by_delegate(exported: EdgeModel, demo_images: Images) -> None:
    outputs, sentences = {}, {}
    for delegate in ("xnnpack", "none", "reference"):
        with exported.session(delegate) as session:
            (outputs[delegate],) = session.run(demo_images[:4]).values()
            sentences[delegate] = session.describe()
            assert bool(session.placement()) == (delegate == "xnnpack")
    qparams = exported.plan.tensors[exported.rewritten.output_tensors()[0][1].index]
    steps = (outputs["xnnpack"] - outputs["reference"]) / qparams.scale[0]
    assert abs(steps).max() < 6
    assert "xnnpack 30 in 1 piece(s), plain kernels 0" in sentences["xnnpack"]
    assert "30 ops on ai_edge_litert" in sentences["none"]
    assert "plain kernels 30 (CONV_2D" in sentences["none"]


def test_a_delegate_that_does_not_exist_is_refused(exported: EdgeModel) -> None:
    with pytest.raises(DelegateError, match=r"must be one of xnnpack, .* Received: 'xnnpak'"):
        exported.session("xnnpak")
    with pytest.raises(DelegateError, match="'xnnpack' takes no options"):
        Session(exported.tflite, options={"device": "usb"})


def test_a_backend_is_chosen_by_name() -> None:
    assert load_backend("ai_edge_litert") == load_backend()
    with pytest.raises(DependencyError, match=f"must be one of {', '.join(BACKENDS)}"):
        load_backend("onnxruntime")
    with pytest.raises(DependencyError, match="pip install tflite-runtime"):
        load_backend("tflite_runtime")


THREADS, REQUESTS = 32, 1000


def test_a_pool_answers_many_threads_as_one_session_does(
    exported: EdgeModel, demo_images: Images
) -> None:
    with exported.session(threads=1) as session:
        expected = [session.run(image[None])["output_0"] for image in demo_images]
    used: set[int] = set()

    def request(number: int) -> bool:
        used.add(threading.get_ident())
        place = number % len(demo_images)
        found = pool.run(demo_images[place][None])["output_0"]
        return bool((found == expected[place]).all())

    with SessionPool(exported.tflite, sessions=3) as pool, ThreadPoolExecutor(THREADS) as threads:
        assert len(pool) == 3
        assert all(threads.map(request, range(REQUESTS)))
    assert len(used) > 3
    with pytest.raises(ModelError, match="the pool is closed"):
        pool.run(demo_images[:1])


def test_a_pool_waits_for_requests_when_it_is_closed() -> None:
    pool, lent, go = SessionPool(add().build(), sessions=1), threading.Event(), threading.Event()
    results = []

    def request() -> None:
        with pool.session() as session:
            lent.set()
            go.wait()
            results.append(session.run([np.ones((2, 3), np.float32)] * 2)["sum"])

    with ThreadPoolExecutor(3) as threads:
        threads.submit(request)
        lent.wait()
        closing = [threads.submit(pool.close) for _ in range(2)]
        assert not any(one.done() for one in closing)
        go.set()
        for one in closing:
            one.result(timeout=60)
    assert (results[0] == 2).all()
    pool.close()


def test_whoever_waits_for_a_session_of_a_closed_pool_is_told() -> None:
    pool = SessionPool(add().build(), sessions=1)
    with ThreadPoolExecutor(3) as threads:
        with pool.session():
            waiting = [threads.submit(pool.run, []) for _ in range(2)]
            closing = threads.submit(pool.close)
        closing.result()
        for request in waiting:
            with pytest.raises((ModelError, DataError)):
                request.result()


def test_a_pool_gives_a_session_back_after_an_error() -> None:
    ones = np.ones((2, 3), np.float32)
    with SessionPool(add().build(), sessions=1) as pool:
        with pytest.raises(DataError):
            pool.run(ones)
        assert (pool.run([ones, ones])["sum"] == 2).all()
