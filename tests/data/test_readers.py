"""Readers of data files: numbers as computed by hand, one file at a time, one sentence an error."""

from __future__ import annotations

import json
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from edgeq.cli import app
from edgeq.data.input_spec import InputSpec
from edgeq.data.readers import (
    FileData,
    ImageLayout,
    open_data,
    open_with_settings,
    parse_setting,
    read_settings,
)
from edgeq.data.rep_dataset import RepDataset
from edgeq.errors import DataError, DependencyError

Array = npt.NDArray[Any]

ROWS = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
"""Two pixels high, four wide; channel c of pixel (y, x) is 120 y + 30 x + 10 c."""
RAW = ImageLayout(scale=1.0)
IMAGE_INPUT = InputSpec("image", (1, 3, 2, 4), "float32")


def image(path: Path, pixels: Array, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(pixels)
    (made.convert(mode) if mode else made).save(path)
    return path


def sound(path: Path, values: list[int], rate: int = 16000) -> Path:
    soundfile.write(path, np.asarray(values, np.int16), rate, subtype="PCM_16")
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def array(path: Path, value: object) -> Path:
    np.save(path, np.asarray(value))
    return path


def arrays(data: FileData) -> list[Any]:
    return list(data)


def equal(found: object, wanted: object) -> None:
    np.testing.assert_array_equal(found, wanted)
    assert np.asarray(found).dtype == np.float32


# Arrays


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_npy(tmp_path: Path, order: Any) -> None:
    np.save(tmp_path / "a.npy", np.asarray(ROWS, order=order))
    data = open_data(tmp_path / "a.npy")
    assert len(data) == 4
    equal(data[1], [[[6, 7, 8], [9, 10, 11]]])
    equal(data[-1], ROWS[3:])
    equal(np.concatenate(arrays(data)), ROWS)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_npz(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "a.npz", image=ROWS, gain=np.asfortranarray(ROWS[:, :, 0]))
    data = open_data(tmp_path / "a.npz")
    assert len(data) == 4
    item: Any = data[2]
    assert list(item) == ["image", "gain"]
    equal(item["image"], ROWS[2:3])
    equal(item["gain"], [[12, 15]])


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_rows_are_read_as_they_are_asked_for(tmp_path: Path, name: str) -> None:
    big = np.arange(400 * 10_000, dtype=np.float32).reshape(400, 10_000)
    np.save(tmp_path / "a.npy", big)
    np.savez(tmp_path / "a.npz", x=big)
    tracemalloc.start()
    data = open_data(tmp_path / name)
    sums = [float(np.sum(i["x"] if isinstance(i, dict) else i, dtype=np.float64)) for i in data]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sums == big.sum(axis=1, dtype=np.float64).tolist()
    assert peak < big.nbytes / 20
    assert len(pickle.dumps(data)) < 2000


def test_a_folder_of_npy_is_sorted_and_searched_below(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    array(tmp_path / "b" / "0.npy", ROWS[2:3])
    array(tmp_path / "a.npy", ROWS[:2])
    array(tmp_path / "c.NPY.npy", ROWS[3:])
    array(tmp_path / ".hidden.npy", [1])
    data = open_data(tmp_path)
    assert [len(a) for a in data] == [2, 1, 1]
    equal(np.concatenate(arrays(data)), ROWS)


def test_slices_are_parts_that_read_nothing(tmp_path: Path) -> None:
    array(tmp_path / "0.npy", [[0.0]])
    text(tmp_path / "1.npy", "broken")
    array(tmp_path / "2.npy", [[2.0]])
    array(tmp_path / "3.npy", [[3.0]])
    data = open_data(tmp_path)
    part = data[::2]
    assert isinstance(part, FileData)
    assert [len(data[1:]), len(part), len(part[1:]), len(data[4:])] == [3, 2, 1, 0]
    assert [float(a) for a in (np.asarray(i).item() for i in part)] == [0, 2]
    shipped: Any = pickle.loads(pickle.dumps(data[2:]))
    assert shipped[1].item() == 3
    with pytest.raises(IndexError):
        data[4]
    with pytest.raises(DataError, match=r"cannot read the data .*1\.npy: "):
        data[1]


# Tables


@pytest.mark.parametrize(
    "content",
    [
        "1,2.5,-3e2\n4,5,6\n",
        "x,y,z\n1,2.5,-3e2\n4,5,6",
        '\ufeff"x","y","z"\r\n\r\n"1", 2.5 ,-3e2\r\n4,5,6\r\n\r\n',
        "\ufeff1,2.5,-3e2\n4,5,6\n",
    ],
    ids=["bare", "header", "quotes and Windows", "mark"],
)
def test_rows_of_csv(tmp_path: Path, content: str) -> None:
    data = open_data(text(tmp_path / "a.CSV", content))
    assert len(data) == 2
    equal(data[0], [[1, 2.5, -300]])
    equal(data[1], [[4, 5, 6]])


# Images


def test_pixels_are_scaled_and_normalised(tmp_path: Path) -> None:
    image(tmp_path / "a.png", PIXELS)
    layout = ImageLayout(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    found: Any = open_data(tmp_path, layout)[0]
    assert found.shape == (1, 3, 2, 4)
    assert found.dtype == np.float32
    # Pixel (1, 2) is 180, 190, 200.
    wanted = [(180 / 255 - 0.1) / 0.5, (190 / 255 - 0.2) / 0.25, (200 / 255 - 0.3) / 2]
    np.testing.assert_allclose(found[0, :, 1, 2], wanted, rtol=1e-6)
    last: Any = open_data(tmp_path, ImageLayout(mean=(100.0,), scale=1.0, layout="nhwc"))[0]
    equal(last, PIXELS[None].astype(np.float32) - 100)


def test_gray_is_one_channel(tmp_path: Path) -> None:
    image(tmp_path / "a.png", PIXELS[..., 0])
    equal(open_data(tmp_path, ImageLayout(scale=1.0, color="gray"))[0], PIXELS[None, None, ..., 0])
    equal(open_data(tmp_path, RAW)[0], np.stack([PIXELS[..., 0]] * 3)[None])
    weights = 0.299 * PIXELS[..., 0] + 0.587 * PIXELS[..., 1] + 0.114 * PIXELS[..., 2]
    image(tmp_path / "a.png", PIXELS)
    nhwc: Any = open_data(tmp_path, ImageLayout(scale=1.0, color="gray", layout="nhwc"))[0]
    assert nhwc.shape == (1, 2, 4, 1)
    assert np.abs(nhwc[0, ..., 0] - weights).max() <= 0.5


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    image(tmp_path / "a.png", PIXELS)
    found = open_data(tmp_path, ImageLayout(size=(2, 2), scale=1.0, layout="nhwc"))[0]
    equal(found, PIXELS[None, :, 1:3])


def test_resizing_is_bilinear(tmp_path: Path) -> None:
    image(tmp_path / "a.png", np.asarray([[0, 100]], np.uint8))
    layout = ImageLayout(size=(1, 4), crop="none", scale=1.0, color="gray")
    equal(open_data(tmp_path, layout)[0], [[[[0, 25, 75, 100]]]])


@pytest.mark.parametrize(
    ("layout", "image_size", "resized"),
    [
        (ImageLayout(), (30, 40), (30, 40)),
        (ImageLayout(size=(224, 224)), (375, 500), (224, 298)),
        (ImageLayout(size=(224, 224)), (500, 375), (298, 224)),
        (ImageLayout(size=(224, 224), resize=256), (375, 500), (256, 341)),
        (ImageLayout(size=(224, 224), resize=256), (500, 375), (341, 256)),
        (ImageLayout(size=(100, 300)), (200, 400), (150, 300)),
        (ImageLayout(size=(300, 100)), (200, 400), (300, 600)),
        (ImageLayout(size=(7, 9), crop="none"), (200, 400), (7, 9)),
    ],
)
def test_lengths_after_resizing(
    layout: ImageLayout, image_size: tuple[int, int], resized: tuple[int, int]
) -> None:
    assert layout.resized(*image_size) == resized


def test_resize_and_crop_as_in_imagenet(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    path = image(tmp_path / "a.png", pixels)
    layout = ImageLayout(size=(22, 22), resize=25, scale=1.0, layout="nhwc")
    # 50 * 25 / 37 = 33.8; the crop starts at round(1.5) and round(5.5).
    whole = np.asarray(Image.open(path).resize((33, 25), Image.Resampling.BILINEAR))
    equal(open_data(tmp_path, layout)[0], whole[None, 2:24, 6:28])


def test_all_kinds_of_images_in_order(tmp_path: Path) -> None:
    names = ["a/1.png", "a/2.jpg", "a/b/3.JPEG", "c.bmp", "d.webp"]
    for number, name in enumerate(names):
        image(tmp_path / name, np.full((8, 8, 3), number * 50, np.uint8))
    image(tmp_path / ".thumbnails" / "x.png", PIXELS)
    text(tmp_path / "labels.txt", "0 1 2 3 4")
    data = open_data(tmp_path, RAW)
    assert [round(float(np.mean(i)) / 50, 1) for i in arrays(data)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    name = "a.jpg" if mode == "CMYK" else "a.png"
    image(tmp_path / name, np.full((8, 8, 3), 51, np.uint8), mode)
    found: Any = open_data(tmp_path)[0]
    np.testing.assert_allclose(found, np.full((1, 3, 8, 8), 0.2), atol=0.01)


@pytest.mark.parametrize(
    ("shape", "given", "wanted"),
    [
        ((1, 3, 5, 7), {}, (1, 3, 5, 7)),
        ((1, 5, 7, 3), {}, (1, 5, 7, 3)),
        ((1, 1, 5, 7), {}, (1, 1, 5, 7)),
        ((1, 3, 5, 3), {}, (1, 3, 5, 3)),
        ((1, 3, 5, 3), {"layout": "nhwc"}, (1, 3, 5, 3)),
        ((1, 3, 5, 7), {"size": "2x2"}, (1, 3, 2, 2)),
        ((1, 10), {}, (1, 3, 2, 4)),
    ],
)
def test_the_input_says_what_is_not_given(
    tmp_path: Path, shape: tuple[int, ...], given: Mapping[str, Any], wanted: tuple[int, ...]
) -> None:
    image(tmp_path / "a.png", PIXELS)
    found: Any = open_data(tmp_path, given, inputs=[InputSpec("x", shape, "float32")])[0]
    assert found.shape == wanted


def test_a_dataset_takes_it(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / f"{name}.png", PIXELS)
    data = RepDataset(open_data(tmp_path, RAW))
    assert data.length == 3
    assert data.first_sample().shape == (1, 3, 2, 4)
    found = list(data.samples((IMAGE_INPUT,)))
    assert len(found) == 3
    equal(found[2][0][0, :, 1, 2], [180, 190, 200])


# Sound


def test_sound_is_cut_or_padded(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav", [0, 16384, -32768])
    sound(tmp_path / "b.wav", [8192])
    data = open_data(tmp_path, length=2)
    equal(data[0], [[0, 0.5]])
    equal(data[1], [[0.25, 0]])
    told = open_data(tmp_path, inputs=[InputSpec("x", (1, 4), "float32")])
    equal(told[0], [[0, 0.5, -1, 0]])
    equal(open_data(tmp_path)[0], [[0, 0.5, -1]])


# Settings


def test_settings_of_files_and_options(tmp_path: Path) -> None:
    values = {"size": [2, 4], "mean": [1, 2, 3], "std": 2, "scale": "1/10", "layout": "nhwc"}
    from_json = read_settings(text(tmp_path / "c.json", json.dumps(values)))
    yaml = "size: [2, 4]\nmean: [1, 2, 3]\nstd: 2\nscale: 1/10\nlayout: nhwc\n"
    assert from_json == read_settings(text(tmp_path / "c.yaml", yaml)) == values
    options = ["size = 2x4", "mean=1,2,3", "std=2", "scale=1/10", "layout=nhwc"]
    layouts = {ImageLayout.of_settings(s) for s in (values, dict(map(parse_setting, options)))}
    assert layouts == {
        ImageLayout((2, 4), mean=(1, 2, 3), std=(2,), scale=0.1, layout="nhwc"),
    }  # fmt: skip
    assert ImageLayout.of_settings({"size": 8, "resize": "9"}) == ImageLayout((8, 8), resize=9)
    image(tmp_path / "images" / "a.png", PIXELS)
    found: Any = open_with_settings(tmp_path / "images", values)[0]
    np.testing.assert_allclose(found[0, 1, 2], [8.5, 8.5, 8.5], rtol=1e-6)
    (tmp_path / "sounds").mkdir()
    sound(tmp_path / "sounds" / "a.wav", [1])
    equal(open_with_settings(tmp_path / "sounds", {"length": "2"})[0], [[1 / 32768, 0]])


BAD_LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "crop": ({"crop": "left"}, "crop must be center or none. Received: 'left'"),
    "layout": ({"layout": "chw"}, "layout must be nchw or nhwc. Received: 'chw'"),
    "color": ({"color": "bgr"}, "color must be rgb or gray. Received: 'bgr'"),
    "two means": (
        {"mean": "1,2"},
        "mean has 2 numbers; give one, or one for each of the 3 channels of rgb images",
    ),
    "std of gray": ({"std": [1, 2, 3], "color": "gray"}, "std has 3 numbers; give one, or one"),
    "no spread": ({"std": "1,0,1"}, "std and scale must not be 0"),
    "no scale": ({"scale": 0}, "std and scale must not be 0"),
    "infinite": ({"mean": float("inf")}, "mean, std and scale must be finite numbers"),
    "words": ({"scale": "half"}, "scale must be a number. Received: 'half'"),
    "nothing": ({"mean": None}, "mean must be a number. Received: None"),
    "by nothing": ({"scale": "1/0"}, "scale must be a number. Received: '1/0'"),
    "thirds": ({"scale": "1/2/3"}, "scale must be a number. Received: '1/2/3'"),
    "a size of nothing": (
        {"size": 0},
        "size must be a positive whole number up to 100,000,000. Received: 0",
    ),
    "half a pixel": (
        {"size": [1.5, 2]},
        "size must be a positive whole number up to 100,000,000. Received: 1.5",
    ),
    "a volume": ({"size": "1x2x3"}, "size must be HEIGHTxWIDTH, such as 224x224. Received: '1x2"),
    "resize alone": ({"resize": 9}, "resize goes with a size and the centre crop; give both or"),
    "resize uncropped": ({"resize": 9, "size": 8, "crop": "none"}, "resize goes with a size and"),
    "small resize": ({"resize": 7, "size": 8}, "resize is 7; the crop of 8x8 needs more"),
    "unknown": ({"sice": 8}, "'sice' is no option of the data; there are size, crop, resize, mean"),
}


@pytest.mark.parametrize("case", BAD_LAYOUTS)
def test_a_layout_that_makes_no_sense(case: str) -> None:
    settings, message = BAD_LAYOUTS[case]
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        ImageLayout.of_settings(settings)


def test_a_size_made_in_python_is_checked() -> None:
    with pytest.raises(DataError, match=r"^size must be \(height, width\) in pixels"):
        ImageLayout(size=(0, 3))


# Failures


def two_images(folder: Path) -> None:
    image(folder / "a.png", PIXELS)
    image(folder / "b.png", PIXELS[:, :3])


def two_kinds(folder: Path) -> None:
    image(folder / "a.png", PIXELS)
    array(folder / "b.npy", ROWS)


def half(path: Path) -> Path:
    return text(path, path.read_bytes()[: path.stat().st_size // 2])


def half_an_image(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    half(image(folder / "a.png", noise))


def deep_image(folder: Path) -> None:
    image(folder / "a.png", np.full((2, 2), 40000, np.uint16))


def two_shapes(folder: Path) -> None:
    array(folder / "a.npy", ROWS)
    array(folder / "b.npy", ROWS[:, :1])


def two_rates(folder: Path) -> None:
    sound(folder / "a.wav", [1, 2])
    sound(folder / "b.wav", [1, 2], rate=8000)


def two_lengths(folder: Path) -> None:
    sound(folder / "a.wav", [1, 2])
    sound(folder / "b.wav", [1, 2, 3])


def stereo(folder: Path) -> None:
    soundfile.write(folder / "a.wav", np.zeros((4, 2)), 16000)


def unequal_columns(folder: Path) -> None:
    np.savez(folder / "a.npz", x=ROWS, y=ROWS[:2])


def encrypted_npz(folder: Path) -> None:
    np.savez(folder / "a.npz", x=ROWS)
    content = bytearray((folder / "a.npz").read_bytes())
    at = content.index(b"PK\x01\x02") + 8
    content[at : at + 2] = struct.pack("<H", 1)
    text(folder / "a.npz", bytes(content))


FAILURES: dict[str, tuple[Callable[[Path], object], str, dict[str, Any], str]] = {
    "nothing there": (
        lambda d: None, "no", {}, "cannot read the data {d}/no: No such file or directory",
    ),
    "another kind": (
        lambda d: text(d / "a.txt", ""), "a.txt", {},
        "data is a .npy, .npz or .csv file, a folder of images, .wav or .npy files, or a function "
        "that yields samples. Received: '{d}/a.txt'",
    ),
    "empty folder": (
        lambda d: text(d / "a.txt", ""), "", {},
        "the folder {d} holds no data: put images (png, jpg, jpeg, bmp, webp), .wav or .npy files "
        "into it",
    ),
    "two kinds": (
        two_kinds, "", {}, "the folder {d} holds .npy files and images; keep one kind in it",
    ),
    "layout without images": (
        lambda d: array(d / "a.npy", ROWS), "a.npy", {"layout": {"size": 3}},
        "{d}/a.npy holds no images, so image options do not apply to it",
    ),
    "length without sound": (
        two_images, "", {"length": 3}, "{d} holds no .wav files, so a length does not apply to it",
    ),
    "npy: no array": (
        lambda d: text(d / "a.npy", "hello there"), "a.npy", {},
        "cannot read the data {d}/a.npy: the magic string is not correct",
    ),
    "npy: half": (
        lambda d: half(array(d / "a.npy", ROWS)), "a.npy", {},
        "cannot read the data {d}/a.npy: ",
    ),
    "npy: one number": (
        lambda d: array(d / "a.npy", 3.0), "a.npy", {},
        "{d}/a.npy is a single number; give an array (N, ...)",
    ),
    "npz: no zip": (
        lambda d: text(d / "a.npz", "hello"), "a.npz", {},
        "cannot read the data {d}/a.npz: File is not a zip file",
    ),
    "npz: empty": (lambda d: np.savez(d / "a.npz"), "a.npz", {}, "{d}/a.npz holds no arrays"),
    "npz: one number": (
        lambda d: np.savez(d / "a.npz", x=ROWS, y=3.0), "a.npz", {},
        "'y' in {d}/a.npz is a single number; give an array (N, ...)",
    ),
    "npz: lengths": (
        unequal_columns, "a.npz", {},
        "the arrays in {d}/a.npz differ in length: {{'x': 4, 'y': 2}}",
    ),
    "npz: objects": (
        lambda d: np.savez(d / "a.npz", np.asarray([None])), "a.npz", {},
        "cannot read the data {d}/a.npz: Object arrays cannot be loaded",
    ),
    "npz: encrypted": (
        encrypted_npz, "a.npz", {}, "cannot read the data {d}/a.npz: ",
    ),
    "csv: empty": (
        lambda d: text(d / "a.csv", "a,b\n\n"), "a.csv", {}, "{d}/a.csv holds no rows of numbers",
    ),
    "csv: columns": (
        lambda d: text(d / "a.csv", "a,b\n1,2\n\n3\n"), "a.csv", {},
        "{d}/a.csv, line 4 has 1 columns, the first row 2",
    ),
    "csv: words": (
        lambda d: text(d / "a.csv", "1,2\n3,x\n"), "a.csv", {},
        "{d}/a.csv, line 2, column 2: 'x' is not a number",
    ),
    "csv: a name in the first row": (
        lambda d: text(d / "a.csv", ",0,1\n0,1,2\n"), "a.csv", {},
        "{d}/a.csv, line 1, column 1: '' is not a number",
    ),
    "csv: another encoding": (
        lambda d: text(d / "a.csv", b"\xff\xfe1\x00"), "a.csv", {},
        "cannot read the data {d}/a.csv: 'utf-8' codec can't decode",
    ),
    "folder of npy: one broken": (
        lambda d: text(d / "a.npy", "hello there"), "", {},
        "cannot read the data {d}/a.npy: the magic string is not correct",
    ),
    "folder of npy: shapes": (
        two_shapes, "", {},
        "{d}/b.npy has shape (4, 1, 3), a.npy has (4, 2, 3); the arrays of a folder may differ in "
        "their first dimension alone",
    ),
    "images: none": (
        lambda d: text(d / "a.png", "hello"), "", {},
        "cannot read the data {d}/a.png: cannot identify image file",
    ),
    "images: a dangling link": (
        lambda d: (d / "a.png").symlink_to("no"), "", {},
        "cannot read the data {d}/a.png: No such file or directory",
    ),
    "images: half": (half_an_image, "", {}, "cannot read the data {d}/a.png: "),
    "images: sizes": (
        two_images, "", {},
        "the images differ in size: a.png is 2x4, {d}/b.png is 2x3 (height x width); give a size",
    ),
    "images: 16 bits": (
        deep_image, "", {},
        "{d}/a.png has more than 8 bits a channel (mode I;16); store it with 8, or the arrays as",
    ),
    "sound: none": (
        lambda d: text(d / "a.wav", "hello"), "", {}, "cannot read the data {d}/a.wav: Error",
    ),
    "sound: half": (
        lambda d: half(sound(d / "a.wav", [1] * 100)), "", {"length": 200},
        "cannot read the data {d}/a.wav: it ends after 122 of 244 bytes",
    ),
    "sound: rates": (
        two_rates, "", {},
        "{d}/b.wav has 8000 Hz, a.wav has 16000 Hz; bring all files to the rate that the model "
        "was trained with",
    ),
    "sound: lengths": (
        two_lengths, "", {},
        "{d}/b.wav has 3 samples, a.wav has 2; give a length to cut or pad to",
    ),
    "sound: stereo": (stereo, "", {}, "{d}/a.wav has 2 channels; mix it down to one"),
    "sound: silence": (lambda d: sound(d / "a.wav", []), "", {}, "{d}/a.wav holds no sound"),
    "sound: no length": (
        two_lengths, "", {"length": 0}, "length must be a positive whole number. Received: 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_sentence(case: str, tmp_path: Path) -> None:
    prepare, name, options, message = FAILURES[case]
    prepare(tmp_path)
    wanted = message.format(d=tmp_path)
    with pytest.raises(DataError, match=f"^{re.escape(wanted)}") as caught:
        list(open_data(tmp_path / name, **options))
    assert "\n" not in str(caught.value)


BAD_CONFIGS = {
    "another kind": ("c.toml", "", "a data config is a .json, .yaml or .yml file. Received: "),
    "no JSON": (
        "c.json",
        "{",
        "cannot read the data config {d}/c.json: it is not JSON: Expecting property name",
    ),
    "no YAML": ("c.yml", "a: [", "cannot read the data config {d}/c.yml: "),
    "a list": ("c.json", "[1]", "the data config {d}/c.json must map options to values, such as"),
    "nothing": ("c.yaml", "", "the data config {d}/c.yaml must map options to values, such as"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_config_that_is_none(case: str, tmp_path: Path) -> None:
    name, content, message = BAD_CONFIGS[case]
    with pytest.raises(DataError, match=f"^{re.escape(message.format(d=tmp_path))}"):
        read_settings(text(tmp_path / name, content))


def test_a_config_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the data config .*: No such file"):
        read_settings(tmp_path / "c.json")


def test_options_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is KEY=VALUE, such as size=224x224: 'size'"):
        parse_setting("size")
    with pytest.raises(DataError, match=r"^'sice' is no option of the data; there are .*length$"):
        open_with_settings(tmp_path, {"sice": 3})


# What is missing


@pytest.mark.parametrize(
    ("missing", "name", "message"),
    [
        ("PIL.Image", "a.png", "reading images needs Pillow: pip install 'edgeq[data]'"),
        ("soundfile", "a.wav", "reading .wav files needs soundfile: pip install 'edgeq[data]'"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, name: str, message: str
) -> None:
    text(tmp_path / name, "")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DependencyError, match=f"^{re.escape(message)}$"):
        open_data(tmp_path)


def test_yaml_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(DependencyError, match=r"needs PyYAML: pip install pyyaml; or write it as"):
        read_settings(text(tmp_path / "c.yaml", "size: 3"))
    assert read_settings(text(tmp_path / "c.json", '{"size": 3}')) == {"size": 3}


def test_nothing_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys, edgeq.data.readers; "
        "sys.exit(', '.join({'PIL', 'soundfile', 'yaml'} & set(sys.modules)) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert found.returncode == 0, found.stderr


# The command line


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def test_the_command_line_reads_a_folder(demo_files: Path) -> None:
    for number, pixels in enumerate(np.load(demo_files / "images.npy")[:12]):
        gray = np.clip(np.rint(pixels[0] * 255), 0, 255).astype(np.uint8)
        image(demo_files / "images" / f"{number:02}.png", np.kron(gray, np.ones((2, 2), np.uint8)))
    config = text(demo_files / "c.json", '{"mean": 9.0, "std": 1}')
    found = run(
        "calibrate", demo_files / "model.tflite", "--data", demo_files / "images",
        "--data-config", config, "--data-option", "mean=0.5", "-o", demo_files / "ranges.json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    ranges = (demo_files / "ranges.json").read_text()
    assert "-0.5" in ranges
    assert "-9" not in ranges


def test_the_command_line_refuses_what_is_not_used(demo_files: Path) -> None:
    model, output = demo_files / "model.tflite", demo_files / "int8.tflite"
    for data, message in (
        (str(demo_files / "images.npy"), "holds no images, so image options do not apply to it"),
        ("math:sin", "--data-config and --data-option are for files, not for a function"),
    ):
        found = run("export", model, "--data", data, "--data-option", "size=3", "-o", output)
        assert found.exit_code == 2
        assert message in found.stderr
