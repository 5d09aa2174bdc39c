"""`Mode`: a way of computing one op."""

from __future__ import annotations

import enum

from edgeq.qtypes import DType


class Mode(enum.Enum):
    """A way of computing one op.

    Static modes compute in integers whose scales calibration found. Dynamic modes store the weight
    as integers and quantize the activation anew at each run. Weight modes store the weight as
    integers and compute in float. Ops without a weight compute in float in both.
    """

    AUTO = "auto"
    STATIC_INT8 = "static_int8"
    INT16X8 = "int16x8"
    DYNAMIC_INT8 = "dynamic_int8"
    DYNAMIC_INT4 = "dynamic_int4"
    WEIGHT_INT8 = "weight_int8"
    WEIGHT_INT4 = "weight_int4"
    WEIGHT_INT2 = "weight_int2"
    FLOAT16 = "float16"
    FLOAT = "float"

    @property
    def is_static(self) -> bool:
        """Whether activations are integers with scales from calibration."""
        return self in (Mode.STATIC_INT8, Mode.INT16X8)

    @property
    def is_dynamic(self) -> bool:
        """Whether activations are quantized at each run."""
        return self in (Mode.DYNAMIC_INT8, Mode.DYNAMIC_INT4)

    @property
    def is_weight_only(self) -> bool:
        """Whether weights are integers that become float before anything is computed."""
        return self in WEIGHT_ONLY

    @property
    def activation_dtype(self) -> DType:
        """Type of the activations in a static mode."""
        return DType.INT16 if self is Mode.INT16X8 else DType.INT8

    @property
    def weight_dtype(self) -> DType | None:
        """Type that weights are stored in; None where they are floating point."""
        return _WEIGHT_DTYPES.get(self)

    @property
    def has_narrow_weights(self) -> bool:
        """Whether weights are stored in fewer than 8 bits."""
        dtype = self.weight_dtype
        return dtype is not None and dtype.bits < 8


WEIGHT_ONLY = (Mode.WEIGHT_INT8, Mode.WEIGHT_INT4, Mode.WEIGHT_INT2)

_WEIGHT_DTYPES = {
    Mode.STATIC_INT8: DType.INT8,
    Mode.INT16X8: DType.INT8,
    Mode.DYNAMIC_INT8: DType.INT8,
    Mode.DYNAMIC_INT4: DType.INT4,
    Mode.WEIGHT_INT8: DType.INT8,
    Mode.WEIGHT_INT4: DType.INT4,
    Mode.WEIGHT_INT2: DType.INT2,
}
