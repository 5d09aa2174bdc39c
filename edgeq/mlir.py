"""The adapter to the converter's MLIR bindings, and the only module that touches them.

Everything here runs as a job in a child process (`edgeq.isolation`), because the native code aborts
on input it does not expect. Knows QParams, but nothing of plans, rules or ops.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeq.files import Content, release
from edgeq.flatbuffer.kernel_shapes import settle_shapes
from edgeq.qtypes import QParams

COMPOSITE = "quant.fake_quant"
"""Name of the composites that say how a value is quantized."""

GRAPH_INPUT = -1
"""`Annotation.op` of the graph's inputs."""

_FROM_PORTABLE = "builtin.module(vhlo-legalize-stablehlo,reconcile-unrealized-casts)"
_OP_INDEX = re.compile(r"tflite\.subgraph=0\.op=(\d+)[:\"]")


@dataclass(frozen=True)
class Annotation:
    """One `quant.fake_quant` composite to put into the main graph.

    Attributes:
        op: Index of the op in the .tflite file, or `GRAPH_INPUT`.
        slot: Which result (or graph input) is meant; which operand if `operand`.
        operand: True: only what this op reads changes (constants, requantized uses).
            False: every reader of the value sees it.
        qparams: The composite's attributes.
    """

    op: int
    slot: int
    operand: bool
    qparams: QParams


def lower(bytecode: Content, origin: str) -> Content:
    """Job: a StableHLO module as MLIR bytecode becomes a float .tflite file.

    Args:
        bytecode: The module, its signature already set.
        origin: Framework's name as the converter spells it, for example `"PYTORCH"`.
    """
    ir, _ = _bindings()
    context, bytecode = _context(), bytes(bytecode)
    with context:
        module = ir.Module.parse(bytecode)
        _broadcast_last(module)
        lowered = _run(module, _lowering_config(origin, bytecode))
    return settle_shapes(lowered)


def lower_exported(module: Content, inputs: Sequence[str], outputs: Sequence[str]) -> Content:
    """Job: what `jax.export` serialised becomes a float .tflite file.

    Args:
        module: The module in MLIR's portable form.
        inputs: Name of each input, in order.
        outputs: Name of each output, in order.
    """
    from litert_converter.mlir import passmanager

    ir, api = _bindings()
    context, module = _context(), bytes(module)
    with context:
        parsed = ir.Module.parse(module)
        passmanager.PassManager.parse(_FROM_PORTABLE).run(parsed.operation)
        _broadcast_last(parsed)
        api.set_signature(parsed.operation, "serving_default", list(inputs), list(outputs))
        lowered = _run(parsed, _lowering_config("JAX", module))
    return settle_shapes(lowered)


def _broadcast_last(module: Any) -> None:
    """Orders axes before a tensor is broadcast: the converter loses an order behind it."""
    for function in module.body.operations:
        for block in (block for region in function.regions for block in region.blocks):
            for operation in list(block.operations):
                if operation.name == "stablehlo.transpose":
                    _transpose_before_broadcast(operation.operation)


def _transpose_before_broadcast(operation: Any) -> None:
    from litert_converter.mlir import ir

    broadcast = operation.operands[0].owner
    if isinstance(broadcast, ir.Block) or broadcast.name != "stablehlo.broadcast_in_dim":
        return
    order = list(operation.attributes["permutation"])
    axes = [order.index(axis) for axis in broadcast.attributes["broadcast_dimensions"]]
    source, place = broadcast.operands[0], ir.InsertionPoint(operation)
    if axes != sorted(axes):
        moved = sorted(range(len(axes)), key=axes.__getitem__)
        kind = source.type
        source = ir.Operation.create(
            "stablehlo.transpose",
            results=[
                ir.RankedTensorType.get(
                    [kind.shape[i] for i in moved], kind.element_type, loc=operation.location
                )
            ],
            operands=[source],
            attributes={"permutation": ir.DenseI64ArrayAttr.get(moved)},
            loc=operation.location,
            ip=place,
        ).results[0]
    wide = ir.Operation.create(
        "stablehlo.broadcast_in_dim",
        results=[operation.results[0].type],
        operands=[source],
        attributes={"broadcast_dimensions": ir.DenseI64ArrayAttr.get(sorted(axes))},
        loc=operation.location,
        ip=place,
    )
    operation.results[0].replace_all_uses_with(wide.results[0])
    operation.erase()


def _lowering_config(origin: str, module: bytes) -> Any:
    """A model that has composites already comes out quantized by them."""
    _, api = _bindings()
    config = api.ConvertToTFLConfig()
    config.strict_qdq_mode = COMPOSITE.encode() in module
    config.model_origin_framework = origin
    config.unsafe_fuse_dynamic_shaped_broadcast = True
    config.enable_x64 = False
    return config


def quantize(tflite: Content, annotations: Sequence[Annotation]) -> bytes:
    """Job: a float .tflite file and its composites become an integer .tflite file."""
    _, api = _bindings()
    module = _annotated(tflite, annotations)
    with module.context:
        config = api.ConvertToTFLConfig()
        config.strict_qdq_mode = True
        return _run(module, config)


def annotated_text(tflite: Content, annotations: Sequence[Annotation]) -> str:
    """Job: the annotated module as MLIR text, large constants left out."""
    module = _annotated(tflite, annotations)
    text: str = module.operation.get_asm(large_elements_limit=16, large_resource_limit=16)
    return text


def import_only(tflite: Content) -> int:
    """Job: reads a .tflite file with the converter's importer; returns its number of functions."""
    return len(list(_imported(tflite).body.operations))


def _bindings() -> tuple[Any, Any]:
    from litert_converter.mlir import ir
    from litert_converter.mlir._mlir_libs import converter_api_ext

    return ir, converter_api_ext


def _context() -> Any:
    ir, api = _bindings()
    context = ir.Context()
    api.prepare_mlir_context(context)
    return context


def _imported(tflite: Content) -> Any:
    from litert_converter.mlir._mlir_libs import model_utils_ext

    content = bytes(tflite)
    release(tflite)
    return model_utils_ext.flatbuffer_to_mlir(content, _context())


def _run(module: Any, config: Any) -> bytes:
    from litert_converter.mlir import passmanager

    _, api = _bindings()
    config.canonicalizing_inf_as_min_max_float = False
    api.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
    return bytes(api.export_flatbuffer_to_bytes(module.operation))


def _annotated(tflite: Content, annotations: Sequence[Annotation]) -> Any:
    ir, _ = _bindings()
    module = _imported(tflite)
    with module.context, ir.Location.unknown():
        writer = _CompositeWriter(module)
        for annotation in sorted(annotations, key=lambda a: a.operand):
            writer.write(annotation)
    return module


class _CompositeWriter:
    """Puts `quant.fake_quant` composites into the main function of a module."""

    def __init__(self, module: Any) -> None:
        self._module = module
        function = module.body.operations[0]
        self._block = function.regions[0].blocks[0]
        self._ops: dict[int, Any] = {}
        for operation in self._block.operations:
            found = _OP_INDEX.search(str(operation.location))
            if found:
                self._ops[int(found[1])] = operation
        self._bodies: dict[str, str] = {}
        self._shared: dict[tuple[Any, QParams], Any] = {}

    def write(self, annotation: Annotation) -> None:
        if annotation.operand:
            self._write_operand(annotation)
        else:
            self._write_value(annotation)

    def _write_value(self, annotation: Annotation) -> None:
        if annotation.op == GRAPH_INPUT:
            value = self._block.arguments[annotation.slot]
        else:
            value = self._ops[annotation.op].results[annotation.slot]
        composite = self._composite(value, annotation.qparams)
        value.replace_all_uses_except(composite.results[0], [composite])

    def _write_operand(self, annotation: Annotation) -> None:
        operation = self._ops[annotation.op]
        value = operation.operands[annotation.slot]
        key = (value, annotation.qparams)
        if key not in self._shared:
            self._shared[key] = self._composite(value, annotation.qparams).results[0]
        operation.operands[annotation.slot] = self._shared[key]

    def _composite(self, value: Any, qparams: QParams) -> Any:
        """A composite right behind the definition of `value`."""
        from litert_converter.mlir import ir
        from litert_converter.mlir.dialects import stablehlo

        if isinstance(value.owner, ir.Block):
            place = ir.InsertionPoint.at_block_begin(self._block)
        else:
            place = ir.InsertionPoint.after(value.owner)
        with place:
            return stablehlo.CompositeOp(
                [value.type],
                [value],
                ir.StringAttr.get(COMPOSITE),
                decomposition=ir.FlatSymbolRefAttr.get(self._body(value.type)),
                composite_attributes=ir.DictAttr.get(_attributes(qparams)),
            ).operation

    def _body(self, kind: Any) -> str:
        """Name of the identity function that the composite of this type falls back to."""
        from litert_converter.mlir import ir
        from litert_converter.mlir.dialects import func

        if str(kind) not in self._bodies:
            name = f"{COMPOSITE}.body_{len(self._bodies)}"
            with ir.InsertionPoint(self._module.body):
                signature = ir.FunctionType.get([kind], [kind])
                function = func.FuncOp(name, signature, visibility="private")
                block = function.add_entry_block()
                with ir.InsertionPoint(block):
                    func.ReturnOp([block.arguments[0]])
            self._bodies[str(kind)] = name
        return self._bodies[str(kind)]


def _attributes(qparams: QParams) -> dict[str, Any]:
    from litert_converter.mlir import ir

    scale = np.asarray(qparams.scale, np.float32)
    zero_point = np.asarray(qparams.zero_point, np.int64)
    integer = ir.IntegerType.get_signless
    attributes = {
        "dtype": ir.StringAttr.get(qparams.dtype.value),
        "narrow_range": ir.BoolAttr.get(qparams.narrow_range),
        "scale": ir.DenseElementsAttr.get(scale, type=ir.F32Type.get(), shape=[len(scale)]),
        "zero_point": ir.DenseElementsAttr.get(
            zero_point, type=integer(64), shape=[len(zero_point)]
        ),
    }
    if qparams.axis is not None:
        attributes["quantization_dimension"] = ir.IntegerAttr.get(integer(32), qparams.axis)
    return attributes
