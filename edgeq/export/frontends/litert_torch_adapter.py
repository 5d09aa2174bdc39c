"""The adapter to litert-torch's lowering, and the only module that touches it.

litert-torch's public `convert` runs native passes in the caller's process; this stops one step
earlier, at StableHLO, so that edgeq runs the native part in a child. The functions used are not
public: `pyproject.toml` pins the minor version, and a test says when an upgrade moved them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from edgeq.errors import DependencyError
from edgeq.export.frontends.torch_program.source_places import layer_path
from edgeq.export.frontends.torch_program.traced_program import kept_buffers
from edgeq.export.importing.layer_calls import call_options
from edgeq.export.importing.sequence_loop import SEQUENCE_LOOP
from edgeq.export.importing.sequence_lstm import SEQUENCE_LSTM
from edgeq.runtime import native_logs

_SHOW_PROGRESS = "LITERT_TORCH_SHOW_PROGRESS"

_LOGGED_NOISE = {
    "torchao": "Failed to load ",
    "torch.utils._pytree": "%s is an Enum subclass and is now natively supported",
    "torch._subclasses.fake_tensor": "failed while attempting to run meta for",
}
"""By logger, how records begin that no user can act on, or that tell again what is raised."""

_WARNED_NOISE = r"`isinstance\(treespec, LeafSpec\)` is deprecated"


@dataclass(frozen=True)
class Lowered:
    """A model in StableHLO.

    Attributes:
        bytecode: MLIR bytecode with the signature `serving_default` set.
        outputs: Name of each output and the layer path that computes it, in order.
        kept: Buffers in which the program keeps what later runs depend on, which the model cannot.
    """

    bytecode: bytes
    outputs: tuple[tuple[str, str], ...]
    kept: tuple[str, ...]


class _Dropping(logging.Filter):
    """Drops the records that begin with a text."""

    def __init__(self, beginning: str) -> None:
        super().__init__()
        self._beginning = beginning

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(self._beginning)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what litert-torch's own dependencies print, and nothing of the user's."""
    filters = {name: _Dropping(text) for name, text in _LOGGED_NOISE.items()}
    for name, dropping in filters.items():
        logging.getLogger(name).addFilter(dropping)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _WARNED_NOISE, FutureWarning)
            yield
    finally:
        for name, dropping in filters.items():
            logging.getLogger(name).removeFilter(dropping)


@contextlib.contextmanager
def _globals_kept() -> Iterator[None]:
    """Undoes what litert-torch sets for the whole process: JAX in 64 bits, its own progress."""
    import jax

    x64, shown = jax.config.jax_enable_x64, os.environ.get(_SHOW_PROGRESS)
    os.environ[_SHOW_PROGRESS] = "n"
    try:
        with native_logs.informational_dropped():
            import litert_torch  # noqa: F401  # the import is what switches JAX

        jax.config.update("jax_enable_x64", True)
        yield
    finally:
        jax.config.update("jax_enable_x64", x64)
        if shown is None:
            del os.environ[_SHOW_PROGRESS]
        else:
            os.environ[_SHOW_PROGRESS] = shown


@contextlib.contextmanager
def _composites_listed_once() -> Iterator[None]:
    """Has PyTorch list its composite ops once, and not for each library of each decomposition.

    It cannot know that no library is loaded while a program is lowered, and spends a quarter of a
    small trace on it.
    """
    from torch._export import utils

    listing = utils._materialize_cpp_cia_ops
    utils._materialize_cpp_cia_ops = functools.cache(listing)
    try:
        yield
    finally:
        utils._materialize_cpp_cia_ops = listing


@contextlib.contextmanager
def _parameters_listed_once() -> Iterator[None]:
    """Has PyTorch list a program's parameters once each time it decomposes, not for each of them.

    Of 600 parameters that is a tenth of a trace, and of twice as many a fifth.
    """
    from torch.export import exported_program

    populate = exported_program._populate_param_buffer_metadata_to_new_gm

    def populated(known: Any, made: Any, signature: Any) -> None:
        listed = SimpleNamespace(
            inputs_to_parameters=signature.inputs_to_parameters,
            inputs_to_buffers=signature.inputs_to_buffers,
        )
        populate(known, made, listed)

    exported_program._populate_param_buffer_metadata_to_new_gm = populated
    try:
        yield
    finally:
        exported_program._populate_param_buffer_metadata_to_new_gm = populate


@contextlib.contextmanager
def _origins_shared() -> Iterator[None]:
    """Has PyTorch share what it remembers of where a node comes from, which nothing changes.

    It copies all of it each time that a node is made of another, and that grows with every pass.
    """
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, memo: self
    try:
        yield
    finally:
        del NodeSource.__deepcopy__


def check_installed() -> None:
    """Raises a `DependencyError` unless the `torch` extra is installed and can be imported."""
    if not _is_found():
        raise DependencyError(
            "exporting a PyTorch model needs litert-torch: pip install 'edgeq[torch]'"
        )
    try:
        with _globals_kept():
            pass
    except ImportError as error:
        raise DependencyError(
            f"litert-torch is installed, but importing it fails ({error}); install the versions "
            "that edgeq was tested with: pip install --force-reinstall 'edgeq[torch]'"
        ) from None


def _is_found() -> bool:
    try:
        return importlib.util.find_spec("litert_torch") is not None
    except ImportError:
        return False


def to_stablehlo(
    program: Any,
    inputs: Sequence[str],
    output_names: Sequence[str] | None,
    own_forms: bool = True,
) -> Lowered:
    """Lowers a `torch.export.ExportedProgram` to StableHLO.

    Args:
        program: The traced program, which is used up. Its nodes' layer paths become the locations
            of the ops.
        inputs: Name of each user input, in order.
        output_names: Name of each output, or None to number them.
        own_forms: Whether edgeq's own decompositions come before litert-torch's.
    """
    with (
        _globals_kept(),
        _composites_listed_once(),
        _parameters_listed_once(),
        _origins_shared(),
    ):
        from litert_converter.mlir._mlir_libs import converter_api_ext
        from litert_torch import backend, fx_infra
        from litert_torch._convert import core
        from litert_torch.backend.inline_consts import InlineConstsContext

        from edgeq.export.frontends.torch_program import passes

        _own_constants(program)
        program = fx_infra.graph_utils.reset_from_node_meta(program)
        table = fx_infra.decomp.pre_convert_decomp()

        def decomposed(program: Any) -> Any:
            return fx_infra.safe_run_decompositions(program, table, can_skip=False)

        if own_forms:
            _lower_calls()
            passes.add_to(table)
            passes.prepare(program)
            program = passes.decompose(program, decomposed)
            kept = kept_buffers(program)
            program = passes.finish(program, decomposed)
        else:
            program = decomposed(program)
            kept = kept_buffers(program)
            passes.check_random(program)
        _dequantize_for_each(program)
        program = core._run_convert_passes(program)
        if own_forms:
            passes.expand_last(program)
        output_layers = _output_layers(program)
        _name_layers(program)
        lowered = backend.export.exported_program_to_mlir(
            program,
            ir_context=backend.export_utils.create_ir_context(),
            lowering_context_plugins=[InlineConstsContext()],
        )
        count = len(lowered.output_signature)
        if output_names is None or len(output_names) != count:
            output_names = [f"output_{i}" for i in range(count)]
        operation = lowered.module.operation
        converter_api_ext.set_signature(
            operation,
            signature_name="serving_default",
            input_names=list(inputs),
            output_names=list(output_names),
        )
        stream = io.BytesIO()
        operation.write_bytecode(file=stream)
        outputs = tuple(zip(output_names, output_layers, strict=True))
        return Lowered(stream.getvalue(), outputs, kept)


def _lower_calls() -> None:
    """Teaches litert-torch to lower edgeq's own ops: to calls that go through the converter, to
    the one op that writes a slice, and to nothing."""
    import torch
    from litert_converter.mlir import ir
    from litert_converter.mlir.dialects import stablehlo
    from litert_torch.backend import lowerings

    def called(
        target: str, values: Sequence[Any], tensors: Sequence[Any], kind: str, time_major: bool
    ) -> Any:
        float32 = ir.F32Type.get()
        return stablehlo.custom_call(
            [ir.RankedTensorType.get(list(value.shape), float32) for value in values],
            inputs=list(tensors),
            call_target_name=target,
            backend_config=ir.StringAttr.get(call_options(kind, time_major)),
            has_side_effect=False,
        )

    def sequence_lstm(context: Any, *operands: Any) -> Any:
        *tensors, projection, time_major = operands
        tensors += [] if projection is None else [projection]
        return called(SEQUENCE_LSTM, context.node.meta["val"], tensors, "", time_major)

    def sequence_loop(context: Any, *operands: Any) -> Any:
        *tensors, kind, time_major = operands
        return called(SEQUENCE_LOOP, [context.node.meta["val"]], tensors, kind, time_major)

    def written(context: Any, x: Any, source: Any, axis: int, place: Any) -> Any:
        integer = ir.IntegerType.get_signless(32)
        zero = stablehlo.constant(
            ir.DenseElementsAttr.get_splat(
                ir.RankedTensorType.get([], integer), ir.IntegerAttr.get(integer, 0)
            )
        )
        starts = [place if a == axis else zero for a in range(x.type.rank)]
        return stablehlo.dynamic_update_slice(x, source, starts)

    lowerings.lower(torch.ops.edgeq.sequence_lstm)(sequence_lstm)
    lowerings.lower(torch.ops.edgeq.sequence_loop)(sequence_loop)
    lowerings.lower(torch.ops.edgeq.slice_written)(written)
    lowerings.lower(torch.ops.edgeq.kept_layout)(lambda context, x: x)


def _own_constants(program: Any) -> None:
    """Copies tensors that litert-torch would change, or take for one another.

    It clamps infinite ones in place, which are the user's. And it tells constants by their address,
    which of one that is not contiguous is that of a copy, and another's soon after.
    """
    import torch

    made: dict[tuple[Any, ...], Any] = {}
    for values in (program.state_dict, program.constants):
        for name, value in values.items():
            if not isinstance(value, torch.Tensor):
                continue
            is_infinite = value.is_floating_point() and bool(value.isinf().any())
            if value.is_contiguous() and not is_infinite:
                continue
            is_parameter = isinstance(value, torch.nn.Parameter)
            key = (is_parameter, value.data_ptr(), value.shape, value.stride(), value.dtype)
            if key not in made:
                own = value.detach().contiguous().clone()
                made[key] = torch.nn.Parameter(own, False) if is_parameter else own
            values[name] = made[key]


def _dequantize_for_each(program: Any) -> None:
    """Gives each reader of a dequantized value its own, as PyTorch's quantizers do.

    litert-torch puts changes of layout between a value and one reader, and takes those of a shared
    one for the others' as well.
    """
    import torch

    graph = program.graph_module.graph
    dequantize = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    for node in [n for n in graph.nodes if n.target is dequantize]:
        readers = sorted(node.users, key=lambda user: user.op != "output")
        for reader in readers[1:]:
            with graph.inserting_before(reader):
                reader.replace_input_with(node, graph.node_copy(node))
    graph.lint()


def _output_layers(program: Any) -> list[str]:
    import torch.utils._pytree as pytree

    output = next(node for node in program.graph.nodes if node.op == "output")
    return [layer_path(node) for node in pytree.tree_leaves(output.args[0])]


def _name_layers(program: Any) -> None:
    """Reduces each node's module stack to its own layer path, which the lowering writes down."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            node.meta["nn_module_stack"] = {"layer": ("", layer_path(node))}
