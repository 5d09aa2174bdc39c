"""Owns a trained face network and photographs in which faces are marked.

The network is the last stage of MTCNN (K. Zhang and others, "Joint Face Detection and Alignment
Using Multitask Cascaded Convolutional Networks", 2016) with the weights that the Python package
facenet-pytorch carries (MIT). The photographs, with a box and 68 landmarks for each face, are the
examples of dlib (Boost licence; PASCAL VOC), from Debian's source package. Knows nothing of
quantization.
"""

from __future__ import annotations

import functools
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from cases import Case, Outputs
from numpy.typing import NDArray
from packages import debian_source, wheel
from PIL import Image
from torch import Tensor, nn

NETWORK = wheel(
    "facenet_pytorch-2.6.0-py3-none-any.whl",
    "facenet-pytorch",
    "2.6.0",
    "ecb82b27beb226d106f2219efe8f829b01b87a8595badd01545679bdb9f19cca",
)
PHOTOGRAPHS = debian_source(
    "dlib_19.24+dfsg.orig.tar.bz2",
    "dlib",
    "19.24+dfsg-1",
    "66b4263822a2ff91a3e769e501c7d7927a13089e178c1427ec19cb0475823cf6",
)

SIZE = 48
CROPS_OF_A_FACE, CROPS_WITHOUT = 8, 60
REPRESENTATIVE_CROPS = 200
LANDMARKS = 68
# Where the eyes, the nose and the corners of the mouth are among dlib's landmarks.
POINTS = (slice(36, 42), slice(42, 48), slice(30, 31), slice(48, 49), slice(54, 55))

Box = NDArray[np.float64]
Split = Literal["training", "testing"]


@dataclass(frozen=True)
class Face:
    """One marked face.

    Attributes:
        box: `(4,)` left, top, right, bottom in pixels, widened to what the network calls a face.
        points: `(5, 2)` eyes, nose, corners of the mouth; None where they are not marked.
    """

    box: Box
    points: NDArray[np.float64] | None


@dataclass(frozen=True)
class Crop:
    """A square cut from a photograph.

    Attributes:
        image: `(1, 3, 48, 48)` float32 in [-1, 1].
        box: `(4,)` where it was cut.
        face: The face in it, or None.
    """

    image: NDArray[np.float32]
    box: Box
    face: Face | None


class FaceNetwork(nn.Module):
    """MTCNN's O-Net; the names are those of the stored weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1 = nn.Linear(256, 2)
        self.dense6_2 = nn.Linear(256, 4)
        self.dense6_3 = nn.Linear(256, 10)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.small_pool = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps `(1, 3, 48, 48)` to box offsets `(1, 4)`, points `(1, 10)`, class shares `(1, 2)`.

        Offsets and points are in sides of the crop; the points' five x come before the five y.
        """
        features = self.pool(self.prelu1(self.conv1(image)))
        features = self.pool(self.prelu2(self.conv2(features)))
        features = self.small_pool(self.prelu3(self.conv3(features)))
        features = self.prelu4(self.conv4(features))
        flat = features.permute(0, 3, 2, 1).reshape(1, -1)
        flat = self.prelu5(self.dense5(flat))
        return self.dense6_2(flat), self.dense6_3(flat), self.dense6_1(flat).softmax(dim=1)


def load(name: str = "onet") -> Case:
    """Reads the network and the photographs; fetches them if this machine has none yet.

    Args:
        name: `"onet"` is judged by telling faces from the rest, `"onet_landmarks"` by where it
            finds eyes, nose and mouth.

    Raises:
        packages.Unavailable: They are neither here nor to be had.
    """
    known, judged = _crops("training", 1), _crops("testing", 2)
    order = np.random.default_rng(0).permutation(len(known))[:REPRESENTATIVE_CROPS]
    representative = [(known[i].image,) for i in order]
    evaluation = [(crop.image,) for crop in judged]

    def area_under_curve(outputs: Sequence[Outputs]) -> float:
        shares = np.array([share[0, 1] for _, _, share in outputs])
        return 100 * _area_under_curve(shares, np.array([c.face is not None for c in judged]))

    def landmark_error(outputs: Sequence[Outputs]) -> float:
        pairs = zip(judged, outputs, strict=True)
        errors = [_landmark_error(crop, points[0]) for crop, (_, points, _) in pairs]
        return 100 * float(np.mean([e for e in errors if e is not None]))

    if name == "onet":
        return Case(name, load_network(), representative, evaluation, area_under_curve, "AUC %")
    return Case(
        name,
        load_network(),
        representative,
        evaluation,
        landmark_error,
        "landmark error, % of the crop",
        point=0.1,
        higher_is_better=False,
    )


def load_network() -> FaceNetwork:
    """The trained network in eval mode."""
    stored = io.BytesIO(NETWORK.read_one("facenet_pytorch/data/onet.pt"))
    network = FaceNetwork()
    network.load_state_dict(torch.load(stored, map_location="cpu", weights_only=True))
    network.eval()
    return network


@functools.cache
def _photographs(split: Split) -> list[tuple[Image.Image, list[Face]]]:
    """Photographs of a split with their faces."""
    files = PHOTOGRAPHS.read(lambda path: "/examples/faces/" in path)
    content = {path.rsplit("/", 1)[1]: data for path, data in files.items()}
    marks = ElementTree.fromstring(content[f"{split}_with_face_landmarks.xml"])
    found = []
    for mark in marks.iter("image"):
        image = Image.open(io.BytesIO(content[str(mark.get("file"))])).convert("RGB")
        found.append((image, [_face(box) for box in mark.iter("box")]))
    return found


def _face(mark: ElementTree.Element) -> Face:
    left, top, width, height = (
        float(str(mark.get(key))) for key in ("left", "top", "width", "height")
    )
    # dlib's boxes reach from the brows to the chin; the network was trained on wider ones.
    box = [left - 0.03 * width, top - 0.18 * height, left + 1.03 * width, top + 1.08 * height]
    parts = sorted(mark.iter("part"), key=lambda part: str(part.get("name")))
    marked = np.array([[float(str(p.get("x"))), float(str(p.get("y")))] for p in parts])
    points = None
    if len(marked) == LANDMARKS:
        points = np.stack([marked[which].mean(0) for which in POINTS])
    return Face(np.array(box), points)


def _crops(split: Split, seed: int) -> list[Crop]:
    """Crops around every face, and crops without any."""
    random = np.random.RandomState(seed)
    return [
        crop
        for image, faces in _photographs(split)
        for crop in [
            *(c for face in faces for c in _around(image, face, random)),
            *_without(image, faces, random),
        ]
    ]


def _around(image: Image.Image, face: Face, random: np.random.RandomState) -> list[Crop]:
    found: list[Crop] = []
    for _ in range(400):
        side = max(face.box[2:] - face.box[:2]) * random.uniform(0.9, 1.2)
        centre = (face.box[:2] + face.box[2:]) / 2 + random.uniform(-0.1, 0.1, 2) * side
        corner = (centre - side / 2).astype(int)
        box = np.concatenate([corner, corner + int(side)]).astype(np.float64)
        if _overlap(box, face.box) >= 0.65:
            found.append(Crop(_pixels(image, box), box, face))
        if len(found) == CROPS_OF_A_FACE:
            break
    return found


def _without(
    image: Image.Image, faces: Sequence[Face], random: np.random.RandomState
) -> list[Crop]:
    found: list[Crop] = []
    while len(found) < CROPS_WITHOUT:
        side = random.randint(24, min(image.size) // 2)
        corner = [random.randint(0, length - side) for length in image.size]
        box = np.array([*corner, corner[0] + side, corner[1] + side], np.float64)
        if max(_overlap(box, face.box) for face in faces) < 0.3:
            found.append(Crop(_pixels(image, box), box, None))
    return found


def _pixels(image: Image.Image, box: Box) -> NDArray[np.float32]:
    left, top, right, bottom = (int(edge) for edge in box)
    cut = image.crop((left, top, right, bottom))
    resized = np.asarray(cut.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    return (resized.transpose(2, 0, 1)[np.newaxis] - np.float32(127.5)) / np.float32(128)


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.clip(sides, 0, None)))
    areas = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return shared / (areas - shared)


def _area_under_curve(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Share of pairs in which the positive has the higher score, from 0 to 1; ties count half."""
    difference = scores[positive][:, np.newaxis] - scores[~positive]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def _landmark_error(crop: Crop, points: NDArray[np.float32]) -> float | None:
    """Mean distance of the five points in sides of the crop; None without marked points."""
    if crop.face is None or crop.face.points is None:
        return None
    side = crop.box[2] - crop.box[0]
    found = crop.box[:2] + points.reshape(2, 5).T * side
    return float(np.linalg.norm(found - crop.face.points, axis=1).mean() / side)
