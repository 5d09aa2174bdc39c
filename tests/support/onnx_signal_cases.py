"""ONNX cases of signals, of boxes and places in images, and of sequences with lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_cases import Case, Input, draw, floats, ints, whole, x

_IMAGE = x(2, 3, 8, 8)
_BOXES = np.concatenate([draw(3, 2, low=0, high=4), draw(3, 2, low=5, high=9)], 1)
_OWNERS = np.array([1, 0, 1])

SIGNALS = [
    Case("DFT", [x(1, 9, 1)], {"axis": 1}),
    Case("DFT", [x(2, 9, 2), np.int64(12)], {"axis": 1, "inverse": 1}, note="inverse"),
    Case("DFT", [x(1, 10, 3, 1), None, np.int64(1)], {"onesided": 1}, opset=20),
    Case("STFT", [x(1, 40), np.int64(8), draw(16), np.int64(16)]),
    Case("HannWindow", [np.int64(9)]),
    Case("HammingWindow", [np.int64(9)], {"periodic": 0}),
    Case("BlackmanWindow", [np.int64(9)]),
    Case("MelWeightMatrix", [np.int64(5), np.int64(16), np.int64(8000), np.float32(20),
         np.float32(3900)]),
]  # fmt: skip

PLACES = [
    Case("RoiAlign", [_IMAGE, _BOXES, _OWNERS], {"output_height": 4, "output_width": 3,
         "sampling_ratio": 2, "spatial_scale": 0.7}),
    Case("RoiAlign", [_IMAGE, Input(_BOXES), _OWNERS], {"output_height": 2, "output_width": 2,
         "sampling_ratio": 3}, opset=10, note="output"),
    Case("MaxPool", [_IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2]}, outputs=2, note="where"),
    Case("MaxUnpool", [x(1, 1, 2, 2), ints(0, 7, 8, 15).reshape(1, 1, 2, 2)],
         {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [2, 3], "dilations": [2, 1]}, opset=19,
         note="dilated"),
    Case("Resize", [x(1, 2, 7, 8), floats(0, 0, 0.1, 0.2, 1, 1, 0.9, 1.2), None, ints(1, 2, 6, 6)],
         {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize",
          "extrapolation_value": 0.5}, note="crop"),
    Case("Det", [x(2, 3, 3)]),
    Case("Attention", [x(1, 2, 5, 4), x(1, 2, 5, 4, seed=1), x(1, 2, 5, 4, seed=2)],
         {"is_causal": 1}, opset=23),
    Case("ReverseSequence", [x(2, 6, 3), Input(ints(2, 5))], {"time_axis": 1, "batch_axis": 0},
         note="computed"),
]  # fmt: skip


def _of_lengths(op: str, gates: int, note: str = "", **attributes: Any) -> Case:
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    lengths = Input(whole(2, low=0, below=10, dtype="int32"))
    reads = [
        x(9, 2, 3), draw(directions, gates * 4, 3), draw(directions, gates * 4, 4, seed=1),
        draw(directions, 2 * gates * 4, seed=2), lengths,
    ]  # fmt: skip
    return Case(op, reads, {"hidden_size": 4, **attributes}, outputs=2 + (op == "LSTM"),
                note=f"lengths{note}")  # fmt: skip


LENGTHS = [
    _of_lengths("LSTM", 4, "-both", direction="bidirectional"),
    _of_lengths("LSTM", 4, "-relu", activations=["Sigmoid", "Tanh", "Relu"], direction="reverse"),
    _of_lengths("GRU", 3, "-both", direction="bidirectional"),
    _of_lengths("RNN", 1, direction="reverse"),
    Case("LSTM", [x(5, 2, 3), draw(1, 16, 3), draw(1, 16, 4, seed=1), None,
         np.asarray([3, 2], np.int32)], {"hidden_size": 4}, outputs=3, note="lengths-known"),
]  # fmt: skip

ALL = [*SIGNALS, *PLACES, *LENGTHS]
