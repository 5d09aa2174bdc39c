"""Which version of an op a file needs, and which LiteRT run time is the first to read it.

An older run time refuses a file with a newer op, and in one case computes wrong numbers instead.
Knows graphs as they are read from a file; nothing of runtimes that are installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from edgeq.errors import RecipeError
from edgeq.flatbuffer import Graph, Operator, Tensor
from edgeq.ops import storable

Version = tuple[int, int]

OLDEST: Version = (2, 5)
"""The oldest run time that files can be made for: that of the Edge TPU compiler 16."""

_SINCE: dict[str, dict[int, Version]] = {
    "ABS": {4: (2, 6), 5: (2, 12)},
    "ADD": {4: (2, 6), 5: (2, 13)},
    "ARG_MAX": {3: (2, 9)},
    "ARG_MIN": {3: (2, 9)},
    "ASSIGN_VARIABLE": {1: (2, 6)},
    "ATAN2": {1: (2, 10)},
    "BATCH_TO_SPACE_ND": {4: (2, 12)},
    "BITCAST": {1: (2, 13)},
    "BITWISE_XOR": {1: (2, 13)},
    "BROADCAST_ARGS": {1: (2, 6)},
    "BUCKETIZE": {1: (2, 8)},
    "CAST": {2: (2, 7), 3: (2, 8), 4: (2, 9), 5: (2, 12), 6: (2, 15), 7: (2, 17)},
    "CONCATENATION": {4: (2, 14)},
    "CONV_2D": {6: (2, 9), 7: (2, 11), 8: (2, 15)},
    "CONV_3D_TRANSPOSE": {1: (2, 6)},
    "DEPTHWISE_CONV_2D": {7: (2, 11)},
    "DEQUANTIZE": {5: (2, 7), 6: (2, 18)},
    "DILATE": {1: (2, 15)},
    "DYNAMIC_UPDATE_SLICE": {1: (2, 9), 2: (2, 17), 3: (2, 19), 4: (2, 20)},
    "EMBEDDING_LOOKUP": {4: (2, 18)},
    "EQUAL": {4: (2, 13)},
    "EXP": {2: (2, 12)},
    "FILL": {4: (2, 12)},
    "FLOOR_DIV": {3: (2, 13)},
    "FLOOR_MOD": {2: (2, 13)},
    "FULLY_CONNECTED": {10: (2, 11), 11: (2, 15), 12: (2, 17), 13: (2, 18)},
    "GATHER": {6: (2, 13), 7: (2, 15)},
    "GATHER_ND": {4: (2, 13), 5: (2, 16)},
    "GELU": {1: (2, 9)},
    "GREATER_EQUAL": {3: (2, 13)},
    "LESS": {3: (2, 13)},
    "LOG": {2: (2, 15)},
    "MIRROR_PAD": {3: (2, 12)},
    "MUL": {5: (2, 6), 6: (2, 11), 7: (2, 13)},
    "MULTINOMIAL": {1: (2, 8)},
    "PACK": {4: (2, 13)},
    "PAD": {4: (2, 6)},
    "PADV2": {4: (2, 6)},
    "QUANTIZE": {3: (2, 7)},
    "RANDOM_STANDARD_NORMAL": {1: (2, 8)},
    "RANDOM_UNIFORM": {1: (2, 8)},
    "RANGE": {2: (2, 14)},
    "READ_VARIABLE": {1: (2, 6)},
    "REDUCE_ALL": {1: (2, 6)},
    "REDUCE_PROD": {2: (2, 6)},
    "REDUCE_WINDOW": {1: (2, 15)},
    "RELU_0_TO_1": {1: (2, 10)},
    "RIGHT_SHIFT": {1: (2, 13)},
    "RSQRT": {3: (2, 15)},
    "SELECT": {3: (2, 12)},
    "SELECT_V2": {2: (2, 12)},
    "SIGN": {1: (2, 11), 2: (2, 12)},
    "SLICE": {6: (2, 14)},
    "SPACE_TO_BATCH_ND": {4: (2, 12)},
    "SQRT": {2: (2, 17)},
    "STRIDED_SLICE": {6: (2, 6), 7: (2, 14)},
    "TILE": {3: (2, 8)},
    "TOPK_V2": {3: (2, 13)},
    "TRANSPOSE": {6: (2, 12), 7: (2, 15)},
    "TRANSPOSE_CONV": {4: (2, 13), 5: (2, 15)},
    "UNIDIRECTIONAL_SEQUENCE_LSTM": {4: (2, 12)},
    "UNSORTED_SEGMENT_MAX": {1: (2, 10)},
    "UNSORTED_SEGMENT_MIN": {1: (2, 11)},
    "UNSORTED_SEGMENT_PROD": {1: (2, 10)},
    "UNSORTED_SEGMENT_SUM": {1: (2, 10)},
    "VAR_HANDLE": {1: (2, 6)},
    "WHERE": {2: (2, 8)},
}
"""The first run time of each version of an op; what is not here `OLDEST` has.

Source: `runtime_version.cc` of LiteRT. It lacks SQRT, of which 2.14 has no version 2 by experiment.
"""

STABLEHLO: Version = (2, 17)
"""From which run time on there are kernels of StableHLO ops."""

INTEGERS: dict[str, Version] = {"DIV": (2, 17)}
"""From which run time on an op computes with int8 that got no new version for that.

Source: by experiment; tflite-runtime 2.14 loads an int8 DIV and fails when it runs.
"""

PER_CHANNEL: dict[str, tuple[Version, Version]] = {
    **dict.fromkeys(("FULLY_CONNECTED", "WHILE"), ((2, 10), _SINCE["FULLY_CONNECTED"][12]))
}
"""From which run time on an int8 weight may have a scale for each channel, with int8 and with float
activations; what is not here always could.

Source: by experiment; tflite-runtime 2.7 and 2.9 load an int8 FULLY_CONNECTED and compute zeros.
"""

_DEQUANTIZES = {"float16": 3, "int8": 5, "int4": 6, "int2": 6}
"""Version of DEQUANTIZE from which it reads a type."""


def dequantize_version(kind: str) -> int:
    """The version of DEQUANTIZE that reads constants of a type."""
    return _DEQUANTIZES[kind]


def stored_weight_version(name: str, kind: str, one_scale: bool) -> int:
    """The version of an op that reads weights of an integer type beside float activations.

    Older ones read weights with several scales too, and silently compute with none of them.
    """
    weight = storable(name)
    if weight is None or weight.dynamic is None:
        return 1
    plain = one_scale and kind == "int8"
    return weight.dynamic.version if plain else weight.dynamic.version_by_channel


def as_version(text: str) -> Version:
    """Reads `min_runtime=`, for example `"2.14"`.

    Raises:
        RecipeError: It is no version, or one that no file can be made for.
    """
    found = re.fullmatch(r"(\d+)\.(\d+)(\.\w+)*", text) if isinstance(text, str) else None
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version < OLDEST:
        raise RecipeError(
            f"min_runtime must be a TensorFlow Lite version from {written(OLDEST)} on, such as "
            f"'2.14'. Received: {text!r}"
        )
    return version


def written(version: Version) -> str:
    """For example `2.14`."""
    return f"{version[0]}.{version[1]}"


def first_runtime(name: str, version: int) -> Version:
    """The first run time that has the version of the op, by builtin operator name."""
    if name.startswith("STABLEHLO_"):
        return STABLEHLO
    rows = _SINCE.get(name, {})
    return max((since for known, since in rows.items() if known <= version), default=OLDEST)


def per_channel_runtime(name: str, is_static: bool) -> Version:
    """The first run time that reads a scale for each channel of an op's int8 weight right."""
    static, dynamic = PER_CHANNEL.get(name, (OLDEST, OLDEST))
    return static if is_static else dynamic


def needed_runtime(graph: Graph, op: Operator) -> Version:
    """The first run time that computes an op of a file right."""
    needed = first_runtime(op.name, op.version)
    if graph.tensors[op.outputs[0]].dtype == "int8":
        needed = max(needed, INTEGERS.get(op.name, OLDEST))
    if op.name in PER_CHANNEL:
        slots = op.multiplied if op.name == "WHILE" else (1,)
        weights = [graph.tensors[op.inputs[slot]] for slot in slots]
        if any(w.qparams is not None and w.qparams.axis is not None for w in weights):
            is_static = not op.multiplied and graph.tensors[op.inputs[0]].dtype != "float32"
            return max(needed, per_channel_runtime(op.name, is_static))
    return needed


def float_version(graph: Graph, op: Operator) -> int:
    """The lowest version that has all that an op asks for, with float32 tensors."""
    if op.name == "CAST":
        return op.version
    read = [tensor for _, tensor in graph.operands(op)]
    found = [
        v for names, v, is_needed in _FLOAT_VERSIONS if op.name in names and is_needed(op, read)
    ]
    return max(found, default=1)


_Needed = Callable[[Operator, Sequence[Tensor]], bool]


def _has(option: str) -> _Needed:
    return lambda op, read: bool(getattr(op.options, option, False))


def _is_wide(op: Operator, read: Sequence[Tensor]) -> bool:
    return max(len(tensor.shape) for tensor in read) > 4


def _broadcasts_wide(op: Operator, read: Sequence[Tensor]) -> bool:
    return _is_wide(op, read) and read[0].shape != read[1].shape


def _is_dilated(op: Operator, read: Sequence[Tensor]) -> bool:
    return op.options is not None and (op.options.dilationWFactor, op.options.dilationHFactor) != (
        1, 1,
    )  # fmt: skip


_FLOAT_VERSIONS: tuple[tuple[tuple[str, ...], int, _Needed], ...] = (
    (("CONV_2D",), 6, lambda op, read: read[0].shape[-1] != read[1].shape[-1]),
    (("DEPTHWISE_CONV_2D",), 2, _is_dilated),
    (("FULLY_CONNECTED",), 6, lambda op, read: len(op.inputs) == 2),
    (("FULLY_CONNECTED",), 5, _has("keepNumDims")),
    (("GATHER",), 6, lambda op, read: read[1].dtype == "int16"),
    (("GATHER",), 5, _has("batchDims")),
    (("GATHER_ND",), 4, lambda op, read: read[1].dtype == "int16"),
    (("DYNAMIC_UPDATE_SLICE",), 2, lambda op, read: read[2].dtype == "int64"),
    (("TRANSPOSE",), 6, lambda op, read: len(read[0].shape) > 5),
    (("TRANSPOSE", "PAD", "PADV2", "STRIDED_SLICE"), 4, _is_wide),
    (("TRANSPOSE_CONV",), 4, _has("fusedActivationFunction")),
    (("TRANSPOSE_CONV",), 3, lambda op, read: len(read) == 4),
    (("LSTM",), 2, _has("kernelType")),
    (("UNIDIRECTIONAL_SEQUENCE_LSTM",), 4, _has("diagonalRecurrentTensors")),
    (("SLICE",), 5, _is_wide),
    (("STRIDED_SLICE",), 8, _has("offset")),
    (("STRIDED_SLICE",), 6, _has("ellipsisMask")),
    (("STRIDED_SLICE",), 6, _has("newAxisMask")),
    (("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), 3, _has("halfPixelCenters")),
    (("RESIZE_NEAREST_NEIGHBOR",), 3, _has("alignCorners")),
    (("MAXIMUM", "MINIMUM", "SUB"), 3, _broadcasts_wide),
    (("DIV",), 2, _broadcasts_wide),
    (("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"), 3, lambda op, read: len(read[0].shape) != 4),
    (("SELECT",), 3, _is_wide),
    (("FLOOR_DIV", "BROADCAST_TO"), 2, lambda op, read: True),
)
"""Features that need more than version 1 of an op with float32 tensors.

Source:
    `op_version.cc` of LiteRT.
"""
