"""ONNX cases of forms that no exporter of today writes by itself, and of numbers at an edge."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_cases import Case, Input, draw, floats, ints, whole, x

_IMAGE = x(1, 3, 9, 8)
_ROWS = Input(np.concatenate([np.zeros((1, 5), np.float32), draw(2, 5)]))
_KERNEL, _BIAS = draw(3, 4, 3, 3), draw(4)

WINDOWS = [
    Case("AveragePool", [_IMAGE], {"kernel_shape": [3, 3], "pads": [2] * 4}, note="wide-pads"),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [3, 3], "pads": [2] * 4, "count_include_pad": 1},
         note="wide-pads-counted"),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1] * 4},
         opset=19, note="dilated-pads"),
    Case("AveragePool", [_IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 2], "strides": [2, 2],
         "ceil_mode": 1, "count_include_pad": 1}, opset=19, note="dilated-ceil"),
    Case("LpPool", [_IMAGE], {"kernel_shape": [3, 3], "pads": [2] * 4, "p": 1}, note="wide-pads"),
    Case("LpPool", [_IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 1], "strides": [2, 2]},
         opset=18, note="dilated"),
    Case("LpPool", [_IMAGE], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, opset=18,
         note="ceil"),
    Case("DeformConv", [x(1, 4, 6, 7), draw(6, 2, 3, 2), x(1, 24, 3, 4, low=-0.4, high=0.4),
         draw(6), x(1, 12, 3, 4, low=0)], {"pads": [1, 0, 1, 1], "strides": [2, 2], "group": 2,
         "offset_group": 2}, opset=19),
    Case("ConvTranspose", [_IMAGE, _KERNEL, _BIAS], {"strides": [3, 2], "output_shape": [28, 18]},
         note="wider-shape"),
    Case("ConvTranspose", [_IMAGE, _KERNEL, _BIAS], {"strides": [2, 2], "pads": [1, 1, 0, 0],
         "output_padding": [1, 1]}, note="bias-behind"),
]  # fmt: skip

EDGES = [
    Case("LpNormalization", [_ROWS], {"axis": 1}, note="zeros"),
    Case("LpNormalization", [_ROWS], {"axis": 1, "p": 1}, note="zeros-1"),
    Case("TopK", [Input(whole(2, 40, below=5).astype(np.float32)), ints(7)], outputs=2,
         note="equals"),
    Case("TopK", [Input(whole(2, 40, below=5).astype(np.float32)), ints(7)], {"largest": 0},
         outputs=2, note="equals-lowest"),
    Case("Resize", [x(1, 2, 7, 6), None, floats(1, 1, 0.6, 0.6)], {"mode": "linear",
         "coordinate_transformation_mode": "align_corners"}, note="corners-factor"),
    Case("Resize", [x(1, 2, 7, 6), None, floats(1, 1, 0.6, 1.4)], {"mode": "cubic",
         "coordinate_transformation_mode": "align_corners"}, note="cubic-corners-factor"),
]  # fmt: skip


def _recurrent(op: str, gates: int, note: str, **attributes: Any) -> Case:
    reads = [x(5, 2, 3), draw(2, gates * 4, 3), draw(2, gates * 4, 4, seed=1)]
    attributes = {"hidden_size": 4, "direction": "bidirectional", **attributes}
    return Case(op, reads, attributes, outputs=2 + (op == "LSTM"), note=note)


RECURRENT = [
    _recurrent("RNN", 1, "parameters", activations=["Affine", "ScaledTanh"],
               activation_alpha=[0.5, 0.7], activation_beta=[0.1, 0.3]),
    _recurrent("RNN", 1, "alphas", activations=["LeakyRelu", "Elu"], activation_alpha=[0.2, 0.7]),
    _recurrent("GRU", 3, "hard", activations=["HardSigmoid", "Softsign"] * 2,
               activation_alpha=[0.25, 0.3], activation_beta=[0.45, 0.4]),
    _recurrent("LSTM", 4, "clip", clip=0.4),
]  # fmt: skip

OTHERS = [
    Case("Col2Im", [x(1, 8, 16), ints(4, 4), ints(2, 2)], {"pads": [0, 1, 1, 0]}, opset=18,
         note="uneven"),
    Case("Pow", [x(1, 2, 2, 2, 3), np.int64(2)], note="whole"),
    Case("Pow", [Input(whole(2, 3)), np.float32(2)], note="of-whole"),
    Case("DFT", [x(2, 6, 2), None, np.int64(1)], {"onesided": 1, "inverse": 1}, opset=20,
         note="half-inverse"),
    Case("DFT", [x(2, 6, 2), np.int64(11), np.int64(1)], {"onesided": 1, "inverse": 1}, opset=20,
         note="half-inverse-odd"),
    Case("CumProd", [x(2, 5), np.int64(1)], {"exclusive": 1, "reverse": 1}, opset=26),
    Case("CastLike", [draw(2, 3), x(2)], note="known"),
    Case("SoftmaxCrossEntropyLoss", [x(6, 5), Input(whole(6, below=5))], {"reduction": "sum"}),
    Case("Dropout", [x(2, 3), np.float32(0), np.asarray(True)], note="none"),
]  # fmt: skip

ALL = [*WINDOWS, *EDGES, *RECURRENT, *OTHERS]
