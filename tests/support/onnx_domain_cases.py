"""ONNX cases of other domains: what onnxruntime's optimizers write, and skl2onnx."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_cases import Case, Input, draw, floats, ints, whole, x

_MS, _ML = "com.microsoft", "ai.onnx.ml"
_ROWS = x(1, 5, 8)
_OWN_MASK = Input(np.asarray([[1, 1, 1, 0, 0]], np.int32))
_BYTES = whole(8, 2, 8, below=256, dtype="uint8")


def _ms(op: str, reads: Any, note: str = "", outputs: int = 1, **attributes: Any) -> Case:
    return Case(op, reads, attributes, outputs=outputs, domain=_MS, note=note)


def _ml(op: str, reads: Any, note: str = "", outputs: int = 1, **attributes: Any) -> Case:
    return Case(op, reads, attributes, outputs=outputs, domain=_ML, note=note)


def _attention(note: str, mask: Any = None, **attributes: Any) -> Case:
    reads = [_ROWS, draw(8, 24), draw(24), mask]
    return _ms("Attention", reads, note, num_heads=2, **attributes)


TRANSFORMERS = [
    _attention("plain"),
    _attention("lengths", np.asarray([3], np.int32)),
    _attention("ends", np.asarray([4, 1], np.int32)),
    _attention("mask", _OWN_MASK),
    _attention("mask-3d", whole(1, 5, 5, below=2, dtype="int32")),
    _attention("causal", unidirectional=1, scale=0.2),
    _ms("MultiHeadAttention", [_ROWS, x(1, 7, 8, seed=1), x(1, 7, 8, seed=2), draw(24)], "bias",
        num_heads=2),
    _ms("MultiHeadAttention", [_ROWS, x(1, 2, 7, 4, seed=1), x(1, 2, 7, 4, seed=2)], "across",
        num_heads=2),
    _ms("EmbedLayerNormalization", [Input(whole(1, 6, below=20, dtype="int32")),
        np.zeros((1, 6), np.int32), draw(20, 8), draw(10, 8), draw(2, 8), draw(8), draw(8),
        np.asarray([[1, 1, 1, 1, 0, 0]], np.int32)], outputs=2),
    _ms("RotaryEmbedding", [x(1, 2, 5, 8), np.arange(5)[None], draw(9, 4), draw(9, 4)], "halves"),
    _ms("RotaryEmbedding", [x(1, 5, 16), ints(2), draw(9, 4), draw(9, 4)], "pairs", interleaved=1),
    _ms("MatMulNBits", [x(2, 30), _BYTES, draw(16), whole(8, below=256, dtype="uint8")], "zeros",
        K=30, N=8, bits=4, block_size=16),
    _ms("MatMulNBits", [x(2, 32), _BYTES, draw(16)], K=32, N=8, bits=4, block_size=16),
    _ms("FusedGemm", [x(2, 5), draw(5, 4), draw(4)], activation="LeakyRelu", activation_alpha=0.3),
    _ms("FusedMatMul", [x(3, 2, 5), draw(3, 2, 5)], "batches", transBatchA=1, transBatchB=1,
        transB=1),
    _ms("GridSample", [x(1, 2, 5, 5), draw(1, 4, 4, 2, low=-0.9, high=0.9)]),
    _ms("Trilu", [x(4, 4)], upper=0),
    _ms("Inverse", [x(3, 3)]),
    _ms("ExpandDims", [x(2, 3), np.asarray(1, np.int32)]),
    _ms("CDist", [x(3, 4), x(5, 4, seed=1)], metric="euclidean"),
]  # fmt: skip

CLASSICAL = [
    _ml("Scaler", [x(2, 3)], offset=[0.1, 0.2, 0.3], scale=[2.0, 3.0, 4.0]),
    _ml("Normalizer", [x(2, 3)], "l2", norm="L2"),
    _ml("Normalizer", [x(2, 3)], "l1", norm="L1"),
    _ml("Normalizer", [x(2, 3, low=0.1)], "max", norm="MAX"),
    _ml("Binarizer", [x(2, 3)], threshold=0.3),
    _ml("Imputer", [Input(floats(1, np.nan, 3, 4).reshape(2, 2))], "nan",
        replaced_value_float=np.nan, imputed_value_floats=[8.0, 9.0]),
    _ml("Imputer", [Input(whole(2, 3))], "whole", replaced_value_int64=1, imputed_value_int64s=[7]),
    _ml("ArrayFeatureExtractor", [x(2, 5), ints(3, 0)]),
    _ml("FeatureVectorizer", [x(2, 3), x(2, 1, seed=1)], inputdimensions=[3, 1]),
    _ml("LinearRegressor", [x(2, 3)], targets=2, coefficients=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        intercepts=[1.0, -1.0]),
    _ml("LinearClassifier", [x(4, 3)], outputs=2, coefficients=[0.1, -0.2, 0.3, 0.4, 0.5, -0.6],
        intercepts=[0.3, -0.3], classlabels_ints=[4, 7], post_transform="SOFTMAX"),
]  # fmt: skip

ALL = [*TRANSFORMERS, *CLASSICAL]
