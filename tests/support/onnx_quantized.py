"""Quantized ONNX models: with QuantizeLinear pairs, with integer ops, and quantized dynamically."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx_cases import Array, draw, model_of

IN_SCALE, MID_SCALE, OUT_SCALE = np.float32(0.02), np.float32(0.05), np.float32(0.06)
IN_ZERO, MID_ZERO, OUT_ZERO = np.uint8(120), np.uint8(0), np.uint8(131)


def weight_scales(channels: int = 4) -> Array:
    """A scale a channel, none of which min-max would choose for `stored_weights`."""
    return np.linspace(0.004, 0.007, channels).astype(np.float32)


def stored_weights(*shape: int) -> Array:
    """int8 weights that do not reach 127."""
    return np.random.default_rng(3).integers(-90, 91, shape).astype(np.int8)


def sample(seed: int = 0) -> dict[str, Array]:
    """An image."""
    return {"image": draw(1, 3, 8, 8, seed=seed)}


def qdq() -> Any:
    """Two convolutions and a product between QuantizeLinear and DequantizeLinear."""
    from onnx import helper

    node = helper.make_node
    constants: dict[str, Array] = {
        "s0": IN_SCALE, "z0": IN_ZERO, "s1": MID_SCALE, "z1": MID_ZERO, "s2": OUT_SCALE,
        "z2": OUT_ZERO, "w": stored_weights(4, 3, 3, 3), "ws": weight_scales(),
        "wz": np.zeros(4, np.int8), "b": np.arange(4, dtype=np.int32) * 100,
        "bs": IN_SCALE * weight_scales(), "v": stored_weights(4 * 64, 5),
        "vs": np.float32(0.001), "vz": np.int8(0), "shape": np.asarray([1, -1], np.int64),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["image", "s0", "z0"], ["q0"], name="quantize_in"),
        node("DequantizeLinear", ["q0", "s0", "z0"], ["d0"], name="dequantize_in"),
        node("DequantizeLinear", ["w", "ws", "wz"], ["dw"], name="weights", axis=0),
        node("DequantizeLinear", ["b", "bs"], ["db"], name="bias", axis=0),
        node("Conv", ["d0", "dw", "db"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"], name="relu"),
        node("QuantizeLinear", ["r", "s1", "z1"], ["q1"], name="quantize_mid"),
        node("Reshape", ["q1", "shape"], ["q1r"], name="flatten"),
        node("DequantizeLinear", ["q1r", "s1", "z1"], ["d1"], name="dequantize_mid"),
        node("DequantizeLinear", ["v", "vs", "vz"], ["dv"], name="more_weights"),
        node("MatMul", ["d1", "dv"], ["m"], name="product"),
        node("QuantizeLinear", ["m", "s2", "z2"], ["q2"], name="quantize_out"),
        node("DequantizeLinear", ["q2", "s2", "z2"], ["out"], name="dequantize_out"),
    ]
    return model_of(nodes, sample(), ["out"], constants, opset=13)


def integer_ops() -> Any:
    """The same kind of model in ops that compute with integers."""
    from onnx import helper

    node = helper.make_node
    ms = {"domain": "com.microsoft"}
    constants: dict[str, Array] = {
        "s0": IN_SCALE, "z0": IN_ZERO, "s1": MID_SCALE, "z1": OUT_ZERO, "s2": OUT_SCALE,
        "z2": OUT_ZERO, "w": stored_weights(4, 3, 3, 3), "ws": weight_scales(),
        "wz": np.zeros(4, np.int8), "b": np.arange(4, dtype=np.int32) * 100,
        "v": stored_weights(4, 5), "vs": np.float32(0.005), "vz": np.int8(0),
        "shape": np.asarray([1, -1], np.int64),
    }  # fmt: skip
    nodes = [
        node("QuantizeLinear", ["image", "s0", "z0"], ["q0"], name="quantize"),
        node("QLinearConv", ["q0", "s0", "z0", "w", "ws", "wz", "s1", "z1", "b"], ["c"],
             name="conv", pads=[1, 1, 1, 1]),
        node("QLinearAdd", ["c", "s1", "z1", "c", "s1", "z1", "s2", "z2"], ["a"], name="sum", **ms),
        node("QLinearLeakyRelu", ["a", "s2", "z2", "s2", "z2"], ["l"], name="leaky", alpha=0.1,
             **ms),
        node("QLinearConcat", ["s2", "z2", "l", "s2", "z2", "c", "s1", "z1"], ["k"], name="join",
             axis=2, **ms),
        node("QLinearGlobalAveragePool", ["k", "s2", "z2", "s2", "z2"], ["g"], name="pool", **ms),
        node("Reshape", ["g", "shape"], ["f"], name="flatten"),
        node("QLinearMatMul", ["f", "s2", "z2", "v", "vs", "vz", "s2", "z2"], ["m"],
             name="product"),
        node("DequantizeLinear", ["m", "s2", "z2"], ["out"], name="dequantize"),
    ]  # fmt: skip
    return model_of(nodes, sample(), ["out"], constants, opset=13)


def dynamic() -> Any:
    """What onnxruntime's dynamic quantization makes of a convolution and a product."""
    from onnx import helper

    node = helper.make_node
    constants: dict[str, Array] = {
        "w": (stored_weights(4, 3, 3, 3).astype(np.int16) + 128).astype(np.uint8),
        "wz": np.uint8(128), "ws": np.float32(0.005), "v": stored_weights(256, 5),
        "vz": np.int8(0), "vs": np.float32(0.004), "shape": np.asarray([1, -1], np.int64),
    }  # fmt: skip
    nodes = [
        node("DynamicQuantizeLinear", ["image"], ["q0", "s0", "z0"], name="quantize"),
        node("ConvInteger", ["q0", "w", "z0", "wz"], ["i"], name="conv", pads=[1, 1, 1, 1]),
        node("Cast", ["i"], ["c"], name="cast", to=1),
        node("Mul", ["s0", "ws"], ["unit"], name="unit"),
        node("Mul", ["c", "unit"], ["m"], name="scaled"),
        node("Relu", ["m"], ["r"], name="relu"),
        node("Reshape", ["r", "shape"], ["f"], name="flatten"),
        node("DynamicQuantizeLinear", ["f"], ["q1", "s1", "z1"], name="quantize_more"),
        node("MatMulInteger", ["q1", "v", "z1", "vz"], ["p"], name="product"),
        node("Cast", ["p"], ["pc"], name="cast_more", to=1),
        node("Mul", ["s1", "vs"], ["unit_more"], name="unit_more"),
        node("Mul", ["pc", "unit_more"], ["out"], name="scaled_more"),
    ]
    return model_of(nodes, sample(), ["out"], constants, opset=13)


MODELS: Mapping[str, Any] = {"qdq": qdq, "integer ops": integer_ops, "dynamic": dynamic}
