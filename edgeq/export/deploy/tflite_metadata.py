"""TFLite metadata: what tools of Android and MediaPipe read of a file's inputs and outputs.

A flatbuffer of its own inside the file, and class names in a zip archive behind it. Nothing kept
writes it without an image library and a camera library, so that it is written here, slot by slot.

Source:
    `metadata_schema.fbs` of TFLite Support (the same in MediaPipe), whose fields' places are the
    slots below.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np

from edgeq.data.readers import ImageLayout
from edgeq.files import Content
from edgeq.flatbuffer import pack, schema, unpack

ENTRY = b"TFLITE_METADATA"
"""Name under which a .tflite holds it."""

IDENTIFIER = b"M001"
PARSER_VERSION = "1.0.0"
LABELS_FILE = "labels.txt"

OWN = "edgeq"
"""Name of the custom part, which has the same JSON as the file beside the model."""

TENSOR_AXIS_LABELS = 2
IMAGE_PROPERTIES = 2
NORMALIZATION_OPTIONS = 1
COLORS = {"rgb": 1, "gray": 2}


@dataclass(frozen=True)
class TensorEntry:
    """Metadata of one input or output.

    Attributes:
        name: Its name.
        images: How images become what it holds; None if it takes none.
        labels: Names of the classes that it has scores of.
    """

    name: str
    images: ImageLayout | None = None
    labels: tuple[str, ...] = ()


def embed(
    tflite: Content,
    description: str,
    inputs: Sequence[TensorEntry],
    outputs: Sequence[TensorEntry],
    own: bytes,
) -> Content:
    """A .tflite with metadata in place of what it has.

    Args:
        tflite: The file.
        description: One line of text.
        inputs: In the order of the graph.
        outputs: Likewise.
        own: JSON to put in as it is.
    """
    tree = unpack(tflite)
    content = np.frombuffer(_metadata(description, inputs, outputs, own), np.uint8)
    tree.buffers[_place(tree)].data = content
    packed = pack(tree)
    labels = next((entry.labels for entry in outputs if entry.labels), ())
    return _with_labels(packed, labels) if labels else packed


def _place(tree: Any) -> int:
    """Index of the buffer for the metadata, which is added where there is none."""
    for entry in tree.metadata or ():
        if entry.name == ENTRY:
            return int(entry.buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = ENTRY, len(tree.buffers)
    tree.metadata = [*(tree.metadata or ()), entry]
    tree.buffers.append(schema.BufferT())
    return int(entry.buffer)


def _with_labels(packed: Content, labels: Sequence[str]) -> bytes:
    """The file with a zip archive behind it, which is read from its end."""
    stream = io.BytesIO(packed)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        # A fixed time, so that the same model gives the same bytes.
        name = zipfile.ZipInfo(LABELS_FILE, (1980, 1, 1, 0, 0, 0))
        archive.writestr(name, "\n".join(labels) + "\n")
    return stream.getvalue()


def _metadata(
    description: str, inputs: Sequence[TensorEntry], outputs: Sequence[TensorEntry], own: bytes
) -> bytes:
    write = _Writer()
    custom = write.table(2, {0: write.text(OWN), 1: write.raw(own)})
    graph = write.table(10, {
        2: write.vector([_tensor(write, entry) for entry in inputs]),
        3: write.vector([_tensor(write, entry) for entry in outputs]),
        9: write.vector([custom]),
    })  # fmt: skip
    model = write.table(8, {
        1: write.text(description), 3: write.vector([graph]), 7: write.text(PARSER_VERSION),
    })  # fmt: skip
    return write.finish(model)


def _tensor(write: _Writer, entry: TensorEntry) -> int:
    fields = {0: write.text(entry.name)}
    if entry.images is not None:
        fields |= {3: _image_content(write, entry.images), **_normalization(write, entry.images)}
    if entry.labels:
        file = write.table(5, {0: write.text(LABELS_FILE)}, {2: TENSOR_AXIS_LABELS})
        fields[6] = write.vector([file])
    return write.table(7, fields)


def _image_content(write: _Writer, images: ImageLayout) -> int:
    image = write.table(2, {}, {0: COLORS[images.color]})
    return write.table(3, {1: image}, {0: IMAGE_PROPERTIES})


def _normalization(write: _Writer, images: ImageLayout) -> dict[int, int]:
    """Process units and statistics, of pixels from 0 to 255: `(pixel - mean) / std`."""
    mean, std = (np.asarray(v, np.float32) / images.scale for v in (images.mean, images.std))
    options = write.table(2, {0: write.floats(mean), 1: write.floats(std)})
    unit = write.table(2, {1: options}, {0: NORMALIZATION_OPTIONS})
    ends = np.sort([(0 - mean) / std, (255 - mean) / std], axis=0)
    stats = write.table(2, {0: write.floats(ends[1]), 1: write.floats(ends[0])})
    return {4: write.vector([unit]), 5: stats}


class _Writer:
    """A flatbuffer, from the leaves to the root."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return int(self._builder.CreateString(value))

    def raw(self, content: bytes) -> int:
        self._builder.StartVector(1, len(content), 16)
        self._builder.head -= len(content)
        self._builder.Bytes[self._builder.head : self._builder.head + len(content)] = content
        return int(self._builder.EndVector())

    def floats(self, values: np.ndarray) -> int:
        return int(self._builder.CreateNumpyVector(np.ascontiguousarray(values, np.float32)))

    def vector(self, tables: Sequence[int]) -> int:
        self._builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self._builder.PrependUOffsetTRelative(table)
        return int(self._builder.EndVector())

    def table(
        self, slots: int, offsets: Mapping[int, int], small: Mapping[int, int] | None = None
    ) -> int:
        """A table: what is written elsewhere, and numbers of one byte, by slot."""
        self._builder.StartObject(slots)
        for slot, offset in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, value in (small or {}).items():
            self._builder.PrependUint8Slot(slot, value, 0)
        return int(self._builder.EndObject())

    def finish(self, root: int) -> bytes:
        self._builder.Finish(root, file_identifier=IDENTIFIER)
        return bytes(self._builder.Output())
