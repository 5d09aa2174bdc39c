"""Representative data: every form gives the same stream, lazily, and errors say where they are."""

from __future__ import annotations

import re
import tracemalloc
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from edgeq.data.as_numpy import to_numpy
from edgeq.data.held_out import HeldOut
from edgeq.data.input_spec import InputSpec
from edgeq.data.rep_dataset import RepDataset, Sample
from edgeq.errors import DataError

Array = npt.NDArray[Any]

IMAGE = InputSpec("image", (1, 2, 3), "float32")
MASK = InputSpec("mask", (1, 4), "float32")
TOKENS = InputSpec("tokens", (1, 4), "int32")
SCALAR = InputSpec("gain", (), "float32")

IMAGES = np.arange(30, dtype=np.float32).reshape(5, 2, 3) / 8
"""Five samples whose values are exact in every float type."""
MASKS = np.arange(20, dtype=np.float32).reshape(5, 4)
LABELS = torch.arange(5)


class Stream:
    """Iterable and nothing more, as a `tf.data.Dataset` is; its length is not known."""

    def __iter__(self) -> Iterator[Array]:
        return iter(list(IMAGES[:, None]))

    def __len__(self) -> int:
        raise TypeError("dataset length is unknown")


class Labelled(Dataset[tuple[torch.Tensor, int]]):  # type: ignore[misc]
    """Images with a Python number as their label."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(IMAGES[index]), index


class CountedDataset(IterableDataset[Array]):  # type: ignore[misc]
    """The counted images behind a loader; its length is not known."""

    def __init__(self, images: Iterable[Array]) -> None:
        self._images = images

    def __iter__(self) -> Iterator[Array]:
        return iter(self._images)


class OwnLoader(DataLoader[Any]):  # type: ignore[misc]
    """A loader of the user's own making."""


def generate() -> Iterator[Array]:
    yield from IMAGES[:, None]


def samples(source: object, *inputs: InputSpec) -> list[Sample]:
    return list(RepDataset(source).samples(inputs or (IMAGE,)))


def tensors(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(IMAGES).to(dtype)


ONE_INPUT: dict[str, Callable[[], object]] = {
    "array": lambda: IMAGES,
    "array of float64": lambda: IMAGES.astype(np.float64),
    "array of float16": lambda: IMAGES.astype(np.float16),
    "array in Fortran order": lambda: np.asfortranarray(IMAGES),
    "tensor": tensors,
    "tensor of bfloat16": lambda: tensors(torch.bfloat16),
    "tensor with a gradient": lambda: tensors().requires_grad_(),
    "list of batches of 1": lambda: list(IMAGES[:, None]),
    "list of unbatched arrays": lambda: list(IMAGES),
    "list of nested numbers": lambda: [(image.tolist(),) for image in IMAGES],
    "list of tuples": lambda: [(image[None],) for image in IMAGES],
    "list of lists": lambda: [[image[None]] for image in IMAGES],
    "list of dicts": lambda: [{"image": image[None]} for image in IMAGES],
    "list of mappings": lambda: [UserDict(image=image) for image in IMAGES],
    "list of tensors of bfloat16": lambda: list(tensors(torch.bfloat16)),
    "dict of an array": lambda: {"image": IMAGES},
    "dict of a tensor": lambda: {"image": tensors(torch.bfloat16)},
    "dict of a list": lambda: {"image": list(IMAGES)},
    "iterator": lambda: iter(IMAGES[:, None]),
    "generator": generate,
    "generator function": lambda: generate,
    "function that returns a list": lambda: lambda: list(IMAGES),
    "iterable": Stream,
    "batches of 2 and a rest": lambda: [IMAGES[:2], IMAGES[2:4], IMAGES[4:]],
    "one batch of all": lambda: [IMAGES],
    "an empty batch among others": lambda: [IMAGES[:0], IMAGES[:3], IMAGES[:0], IMAGES[3:]],
    "DataLoader": lambda: DataLoader(TensorDataset(tensors()), batch_size=2),
    "DataLoader with labels": lambda: DataLoader(TensorDataset(tensors(), LABELS), batch_size=2),
    "DataLoader of a Dataset": lambda: DataLoader(Labelled(), batch_size=3),
    "DataLoader without batches": lambda: DataLoader(Labelled(), batch_size=None),
    "DataLoader of the user's own": lambda: OwnLoader(TensorDataset(tensors()), batch_size=5),
    "labelled tuples": lambda: [(image, i) for i, image in enumerate(IMAGES)],
}


@pytest.mark.parametrize("form", ONE_INPUT)
def test_every_form_gives_the_same_samples(form: str) -> None:
    found = samples(ONE_INPUT[form]())
    assert [len(sample) for sample in found] == [1] * 5
    assert {(s[0].shape, s[0].dtype.name) for s in found} == {((1, 2, 3), "float32")}
    assert np.array_equal(np.concatenate([s[0] for s in found]), IMAGES)


TWO_INPUTS: dict[str, Callable[[], object]] = {
    "dict of arrays": lambda: {"mask": MASKS, "image": IMAGES},
    "dict of tensor and array": lambda: {"image": tensors(torch.bfloat16), "mask": MASKS},
    "list of tuples": lambda: list(zip(IMAGES, MASKS, strict=True)),
    "list of dicts": lambda: [
        {"mask": m, "image": i[None]} for i, m in zip(IMAGES, MASKS, strict=True)
    ],
    "batched and unbatched": lambda: list(zip(IMAGES, MASKS[:, None], strict=True)),
    "DataLoader with labels": lambda: DataLoader(
        TensorDataset(tensors(), torch.from_numpy(MASKS), LABELS), batch_size=2
    ),
}


@pytest.mark.parametrize("form", TWO_INPUTS)
def test_every_form_gives_the_same_samples_for_two_inputs(form: str) -> None:
    found = samples(TWO_INPUTS[form](), IMAGE, MASK)
    assert np.array_equal(np.concatenate([image for image, _ in found]), IMAGES)
    assert np.array_equal(np.concatenate([mask for _, mask in found]), MASKS)


def test_integer_and_scalar_inputs() -> None:
    tokens = np.arange(8).reshape(2, 4)
    found = samples([(t, 0.5) for t in tokens], TOKENS, SCALAR)
    assert [(t.dtype.name, t.tolist(), float(g)) for t, g in found] == [
        ("int32", [row.tolist()], 0.5) for row in tokens
    ]


@given(st.lists(st.integers(0, 7), min_size=1, max_size=8), st.integers(1, 4))
def test_rows_are_rebatched_in_order(counts: list[int], batch: int) -> None:
    rows = np.arange(sum(counts), dtype=np.float32)[:, None]
    items = np.split(rows, np.cumsum(counts)[:-1])
    whole = len(rows) - len(rows) % batch
    stream = RepDataset(items).samples((InputSpec("x", (batch, 1), "float32"),))
    if not whole:
        with pytest.raises(DataError, match=f"fewer rows than the model's batch of {batch}"):
            list(stream)
        return
    found = list(stream)
    assert {sample[0].shape for sample in found} == {(batch, 1)}
    assert np.array_equal(np.concatenate([sample[0] for sample in found]), rows[:whole])


def test_rows_left_over_outlive_a_buffer_that_is_written_again() -> None:
    def one_buffer() -> Iterator[Array]:
        buffer = np.empty((3, 1), np.float32)
        for start in (0, 3):
            buffer[:, 0] = np.arange(start, start + 3)
            yield buffer

    stream = RepDataset(one_buffer).samples((InputSpec("x", (2, 1), "float32"),))
    assert [sample[0].ravel().tolist() for sample in stream] == [[0, 1], [2, 3], [4, 5]]


class Counted:
    """Images that count how many of them were asked for."""

    def __init__(self) -> None:
        self.made = 0

    def __iter__(self) -> Iterator[Array]:
        for image in IMAGES:
            self.made += 1
            yield image


@pytest.mark.parametrize("form", ["iterable", "generator", "function", "DataLoader"])
def test_data_is_read_at_most_one_item_ahead(form: str) -> None:
    counted = Counted()
    sources: dict[str, Callable[[], object]] = {
        "iterable": lambda: counted,
        "generator": lambda: iter(counted),
        "function": lambda: counted.__iter__,
        "DataLoader": lambda: DataLoader(CountedDataset(counted), batch_size=None),
    }
    data = RepDataset(sources[form]())
    assert counted.made == 1
    for taken, _ in enumerate(data.samples((IMAGE,)), start=1):
        assert counted.made <= taken + 1
    assert counted.made == taken == 5


def test_memory_stays_flat_over_a_long_stream() -> None:
    spec = InputSpec("x", (1, 1 << 18), "float32")
    megabyte = 1 << 20
    stream = RepDataset(np.full(spec.shape, i, np.float32) for i in range(100)).samples((spec,))
    tracemalloc.start()
    try:
        total = sum(float(sample[0][0, 0]) for sample in HeldOut(stream, limit=2, passed=5))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == sum(range(100)) - 79
    assert peak < 40 * megabyte


def test_few_large_samples_are_remembered_and_many_small_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HeldOut, "PASSED_BYTES", 1200)
    for size, least, most in ((40, 15, 29), (100, 6, 11), (1200, 5, 9), (4, 41, 41)):
        held = HeldOut((np.zeros(size, np.uint8),) for _ in range(60))
        held.exhaust()
        assert least <= len(held.passed) <= most


def test_a_mapped_file_is_not_read_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((64, 1 << 16), np.float32))
    tracemalloc.start()
    try:
        found = sum(1 for _ in RepDataset(np.load(path, mmap_mode="r")).samples(
            (InputSpec("x", (1, 1 << 16), "float32"),)
        ))  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == 64
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("source", "length"),
    [
        (lambda: IMAGES, 5),
        (lambda: list(IMAGES), 5),
        (lambda: {"image": IMAGES, "mask": MASKS}, 5),
        (lambda: DataLoader(TensorDataset(tensors()), batch_size=2), 3),
        (generate, None),
        (Stream, None),
    ],
)
def test_length_is_told_where_the_source_knows_it(
    source: Callable[[], object], length: int | None
) -> None:
    assert RepDataset(source()).length == length


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (lambda: IMAGES, (1, 2, 3)),
        (lambda: [IMAGES[:2]], (2, 2, 3)),
        (lambda: DataLoader(TensorDataset(tensors()), batch_size=4), (1, 2, 3)),
        (lambda: OwnLoader(TensorDataset(tensors(), LABELS), batch_size=4), (1, 2, 3)),
    ],
)
def test_the_first_sample_is_cut_where_batches_are_certain(
    source: Callable[[], object], shape: tuple[int, ...]
) -> None:
    first = RepDataset(source()).first_sample()
    assert tuple((first[0] if isinstance(first, list) else first).shape) == shape


def with_value(value: float) -> Array:
    images = IMAGES.copy()
    images[3, 1, 2] = value
    return images


BAD_SOURCES: dict[str, tuple[Callable[[], object], str]] = {
    "a number": (lambda: 5, "Received: int"),
    "a path": (lambda: "images.npy", "Received: str"),
    "nothing": (lambda: None, "Received: NoneType"),
    "a scalar array": (lambda: np.float32(3.0), "is a single number; give an array (N, ...)"),
    "a function of nothing": (lambda: lambda: None, "must return an iterable. Received: NoneType"),
    "an empty array": (lambda: IMAGES[:0], "is empty: give at least one sample"),
    "an empty list": (list, "is empty: give at least one sample"),
    "an empty generator": (lambda: iter(()), "is empty: give at least one sample"),
    "an empty dict": (dict, "is an empty dict: give an array for each input"),
    "a dict of nothing": (lambda: {"image": IMAGES[:0]}, "is empty: give at least one sample"),
    "a dict of a number": (lambda: {"image": 5}, "input 'image' is a single number"),
    "a dict of unequal arrays": (
        lambda: {"image": IMAGES, "mask": MASKS[:3]},
        "differ in length: {'image': 5, 'mask': 3}",
    ),
    "a dict of a ragged list": (
        lambda: {"image": [[1.0], [2.0, 3.0]]},
        "input 'image': list is not an array: ",
    ),
}


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_sources_that_hold_no_samples(case: str) -> None:
    source, message = BAD_SOURCES[case]
    with pytest.raises(DataError, match=re.escape(message)):
        RepDataset(source())


BAD_ITEMS: dict[str, tuple[Callable[[], object], tuple[InputSpec, ...], str]] = {
    "shape": (
        lambda: [IMAGES[0], np.zeros((1, 3, 2), np.float32)], (IMAGE,),
        "sample 1, input 'image': the model takes shape (1, 2, 3). Received: (1, 3, 2)",
    ),
    "shape of the second input": (
        lambda: [(IMAGES[0], MASKS[0]), (IMAGES[1], MASKS[1, :3])], (IMAGE, MASK),
        "sample 1, input 'mask': the model takes shape (1, 4). Received: (3,)",
    ),
    "rank": (
        lambda: IMAGES[None, None], (IMAGE,),
        "sample 0, input 'image': the model takes shape (1, 2, 3). Received: (1, 1, 5, 2, 3)",
    ),
    "a number": (
        lambda: [IMAGES[0], 0.5], (IMAGE,),
        "sample 1, input 'image': the model takes shape (1, 2, 3). Received: ()",
    ),
    "text": (
        lambda: [IMAGES[0], "cat.png"], (IMAGE,),
        "sample 1, input 'image': the model takes float32. Received: <U7",
    ),
    "ragged": (
        lambda: [{"image": [[1.0], [2.0, 3.0]]}], (IMAGE,),
        "sample 0, input 'image': list is not an array: ",
    ),
    "uint8": (
        lambda: [IMAGES[0], IMAGES[1].astype(np.uint8)], (IMAGE,),
        "sample 1, input 'image': the model takes float32; normalise it as for training, for "
        "example `x.astype('float32') / 255`. Received: uint8",
    ),
    "float for an integer": (
        lambda: [MASKS[0]], (TOKENS,),
        "sample 0, input 'tokens': the model takes int32. Received: float32",
    ),
    "an integer too large": (
        lambda: [np.full((1, 4), 2**40)], (TOKENS,),
        "sample 0, input 'tokens': a value does not fit int32. Received: int64",
    ),
    "NaN": (
        lambda: with_value(np.nan), (IMAGE,),
        "sample 3, input 'image': the value at (0, 1, 2) is nan; calibration needs finite numbers",
    ),
    "infinity": (
        lambda: with_value(-np.inf), (IMAGE,),
        "sample 3, input 'image': the value at (0, 1, 2) is -inf",
    ),
    "a float64 too large for float32": (
        lambda: [np.full((2, 3), 1e300)], (IMAGE,),
        "sample 0, input 'image': the value at (0, 0) is inf",
    ),
    "a missing name": (
        lambda: [{"image": IMAGES[0], "mask": MASKS[0]}, {"mask": MASKS[1]}], (IMAGE, MASK),
        "sample 1 has no value for input 'image'; the model takes image, mask. Received: mask",
    ),
    "an unknown name": (
        lambda: {"image": IMAGES, "label": LABELS}, (IMAGE,),
        "sample 0 names the input 'label', which the model does not have; it takes image",
    ),
    "too many arrays": (
        lambda: [(IMAGES[0],), (IMAGES[1], MASKS[1])], (IMAGE,),
        "sample 1 has 2 arrays, but the model takes 1 inputs: 'image' float32 (1, 2, 3)",
    ),
    "too few arrays": (
        lambda: IMAGES, (IMAGE, MASK),
        "sample 0 has 1 arrays, but the model takes 2 inputs: 'image' float32 (1, 2, 3); 'mask' "
        "float32 (1, 4)",
    ),
    "something ragged behind the inputs": (
        lambda: [(IMAGES[0], [[1], [2, 3]])], (IMAGE,),
        "sample 0 has 2 arrays, but the model takes 1 inputs",
    ),
    "unequal batches": (
        lambda: [(IMAGES[:1], MASKS[:1]), (IMAGES[:3], MASKS[:2])], (IMAGE, MASK),
        "sample 1 cannot be split into the model's batch: its inputs have 'image' (3, 2, 3), "
        "'mask' (2, 4), the model takes 'image' float32 (1, 2, 3); 'mask' float32 (1, 4)",
    ),
    "a batch beside a scalar": (
        lambda: [(IMAGES[:3], np.float32(1.0))], (IMAGE, SCALAR),
        "sample 0 cannot be split into the model's batch",
    ),
    "too few rows": (
        lambda: IMAGES[:3], (InputSpec("image", (4, 2, 3), "float32"),),
        "fewer rows than the model's batch of 4: give more rows, or trace the model with batch 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ITEMS)
@pytest.mark.filterwarnings("error")
def test_errors_name_the_sample_and_the_input(case: str) -> None:
    source, inputs, message = BAD_ITEMS[case]
    with pytest.raises(DataError, match=re.escape(message)):
        samples(source(), *inputs)


def test_samples_before_a_bad_one_are_given() -> None:
    stream = RepDataset(with_value(np.nan)).samples((IMAGE,))
    assert [next(stream)[0].tolist() for _ in range(3)] == IMAGES[:3, None].tolist()


def test_an_error_of_the_users_own_code_passes_through() -> None:
    def broken() -> Iterator[Array]:
        yield IMAGES[0]
        raise FileNotFoundError("cat.png")

    with pytest.raises(FileNotFoundError, match=r"cat\.png"):
        samples(broken)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_tensors_keep_their_dtype(dtype: torch.dtype) -> None:
    found = to_numpy(torch.ones(2, dtype=dtype))
    assert (found.dtype.name, found.tolist()) == (str(dtype).removeprefix("torch."), [1, 1])


@pytest.mark.parametrize(
    ("count", "limit", "held", "passed"),
    [
        (1, 16, [0], 1),
        (9, 16, [*range(9)], 9),
        (10, 16, [2, 4, 7, 9], 6),
        (24, 16, [2, 4, 7, 9, 12, 14, 17, 19, 22], 15),
        (31, 16, [4, 9, 14, 19, 24, 29], 25),
        (70, 16, [9, 19, 29, 39, 49, 59, 69], 63),
        (150, 16, [*range(9, 150, 10)], 135),
        (200, 16, [*range(19, 200, 20)], 190),
        (400, 4, [159, 319], 398),
    ],
)
def test_every_tenth_sample_is_held_out_or_a_larger_share_of_few(
    count: int, limit: int, held: list[int], passed: int
) -> None:
    stream = HeldOut(((np.full(1, i),) for i in range(count)), limit, passed=9)
    seen = [int(sample[0][0]) for sample in stream]
    judged = [int(sample[0][0]) for sample in stream.samples]
    assert (judged, len(seen)) == (held, passed)
    assert stream.independent is (count >= 10)
    if stream.independent:
        assert sorted(seen + judged) == list(range(count))
    remembered = [int(sample[0][0]) for sample in stream.passed]
    assert len(remembered) == min(9, passed)
    assert min(remembered) <= count / 8
    assert max(remembered) >= count * 3 / 4 or count < 10


def test_held_out_samples_outlive_a_buffer_that_is_written_again() -> None:
    def one_buffer() -> Iterator[Sample]:
        buffer = np.zeros(1)
        for i in range(30):
            buffer[0] = i
            yield (buffer,)

    stream = HeldOut(one_buffer())
    for _ in stream:
        pass
    assert [float(sample[0][0]) for sample in stream.samples] == sorted(
        [*range(2, 30, 5), *range(4, 30, 5)]
    )
