"""Holds what was made of an ONNX model against what ONNX's own runtime computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgeq.errors import ConversionError
from edgeq.export.frontends.arguments import first_line
from edgeq.export.frontends.onnx.graph_interpreter import Program
from edgeq.export.frontends.onnx.onnx_file import OnnxModel

LEAST_DB = 40.0
"""Lowest SQNR against ONNX's runtime of a model in real numbers. Sums in another order leave more
than 90 dB in single layers; large models lose some of it on the way."""

LEAST_QUANTIZED_DB = 10.0
"""The same where the model rounds to integers and the float model does not."""

NOTHING = 1e-6
"""Allowed difference of a number: runtimes approximate exponentials."""

_ROUNDING = ("Quantize", "QLinear", "QGemm", "Integer")

Arrays = Mapping[str, npt.NDArray[Any]]


def check(model: OnnxModel, arguments: Arrays, program: Program) -> list[str]:
    """Compares the sample's outputs with those of onnxruntime, or of ONNX's reference without it.

    Returns:
        A note where they could not be compared.

    Raises:
        ConversionError: They differ; the error names the first node that does.
    """
    names = list(model.outputs)
    given = _in_own_types(model, arguments)
    try:
        expected = _run(model.proto, given, names)
    except Exception as error:  # the reference may not know an op, onnxruntime may refuse a file
        return [f"the float model was not compared with ONNX's own runtime: {first_line(error)}"]
    made = {name: value.plain.numpy() for name, value in program.outputs.items()}
    rounds = any(part in node.op for node in model.body.nodes for part in _ROUNDING)
    least = LEAST_QUANTIZED_DB if rounds else LEAST_DB
    both = dict(zip(names, expected, strict=True))
    resized = [n for n, wanted in both.items() if rounds and wanted.shape != made[n].shape]
    reached = {n: sqnr_db(w, made[n]) for n, w in both.items() if n not in resized}
    for name, found in reached.items():
        if found < least:
            raise ConversionError(
                f"edgeq computes output {name!r} of the ONNX model with {found:.1f} dB of what "
                f"{_runtime()} computes{_differing_node(model, given, program, least)}; "
                "please report this with the model"
            )
    notes = [_resized_note(name, both[name].shape, made[name].shape) for name in resized]
    if rounds:
        distance = f", {min(reached.values()):.0f} dB from it" if reached else ""
        notes.append(
            "the ONNX model is quantized: exported is the float model that its integers stand for"
            f"{distance}"
        )
    return notes


def _resized_note(name: str, wanted: tuple[int, ...], made: tuple[int, ...]) -> str:
    return (
        f"output {name!r} was not compared with ONNX's own runtime: values decide over its size, "
        f"and the integers of the ONNX model round them to {wanted}, where the file has {made}"
    )


def _runtime() -> str:
    has = importlib.util.find_spec("onnxruntime") is not None
    return "onnxruntime" if has else "onnx.reference"


def _run(proto: Any, arguments: Arrays, names: list[str]) -> list[npt.NDArray[Any]]:
    if importlib.util.find_spec("onnxruntime") is None:
        from onnx.reference import ReferenceEvaluator

        return list(ReferenceEvaluator(proto).run(names, dict(arguments)))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The graph as it is written: its optimizer would fuse what is looked for by name.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(names, dict(arguments)))


def _in_own_types(model: OnnxModel, arguments: Arrays) -> Arrays:
    """The sample in the types that the ONNX model declares."""
    types = {port.name: onnx.helper.tensor_dtype_to_np_dtype(port.dtype) for port in model.inputs}
    return {name: array.astype(types[name]) for name, array in arguments.items()}


def _differing_node(model: OnnxModel, arguments: Arrays, program: Program, least: float) -> str:
    """The first node whose result differs, as the end of a sentence."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.output[:]
    nodes = {n: node for node in model.body.nodes for n in node.outputs if n in program.trail}
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in nodes)
    try:
        found = _run(proto, arguments, list(nodes))
    except Exception:  # not every value can be an output
        return ""
    for (name, node), wanted in zip(nodes.items(), found, strict=True):
        if sqnr_db(wanted, program.trail[name].plain.numpy()) < least:
            return f", from {node.where} on"
    return ""


def sqnr_db(wanted: npt.NDArray[Any], made: npt.NDArray[Any]) -> float:
    """Signal over error in dB; infinite where nothing differs, and lowest for another shape."""
    if wanted.shape != made.shape:
        return -np.inf
    one, other = wanted.astype(np.float64), made.astype(np.float64)
    same = (np.abs(one - other) <= NOTHING) | (one == other) | (np.isnan(one) & np.isnan(other))
    error = np.where(same, 0.0, one - other)
    noise = float(np.square(error).sum())
    if noise == 0:
        return np.inf
    signal = float(np.square(np.where(np.isfinite(one), one, 0.0)).sum())
    return 10 * float(np.log10(max(signal, 1e-300) / noise)) if np.isfinite(noise) else -np.inf
