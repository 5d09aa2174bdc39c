"""The adapter to litert-torch's lowering, and the only module that touches it.

litert-torch's public `convert` runs native passes in the caller's process; this stops one step
earlier, at StableHLO, so that edgeq runs the native part in a child. The functions used are not
public: `pyproject.toml` pins the minor version, and a test says when an upgrade moved them.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

from edgeq.errors import DependencyError

_SHOW_PROGRESS = "LITERT_TORCH_SHOW_PROGRESS"


@contextlib.contextmanager
def _globals_kept() -> Iterator[None]:
    """Undoes what litert-torch sets for the whole process: JAX in 64 bits, its own progress."""
    import jax

    x64, shown = jax.config.jax_enable_x64, os.environ.get(_SHOW_PROGRESS)
    os.environ[_SHOW_PROGRESS] = "n"
    try:
        import litert_torch  # noqa: F401  # the import is what switches JAX

        jax.config.update("jax_enable_x64", True)
        yield
    finally:
        jax.config.update("jax_enable_x64", x64)
        if shown is None:
            del os.environ[_SHOW_PROGRESS]
        else:
            os.environ[_SHOW_PROGRESS] = shown


def check_installed() -> None:
    """Raises a `DependencyError` unless the `torch` extra is installed."""
    import importlib.util

    if importlib.util.find_spec("litert_torch") is None:
        raise DependencyError(
            "exporting a PyTorch model needs litert-torch: pip install 'edgeq[torch]'"
        )


def to_stablehlo(program: Any, inputs: Sequence[str], output_names: Sequence[str] | None) -> bytes:
    """Lowers a `torch.export.ExportedProgram` to StableHLO.

    Args:
        program: The traced program. Its nodes' layer paths become the locations of the ops.
        inputs: Name of each user input, in order.
        output_names: Name of each output, or None to number them.

    Returns:
        MLIR bytecode with the signature `serving_default` set.
    """
    with _globals_kept():
        from litert_converter.mlir._mlir_libs import converter_api_ext
        from litert_torch import backend, fx_infra
        from litert_torch._convert import core
        from litert_torch.backend.inline_consts import InlineConstsContext

        program = fx_infra.graph_utils.reset_from_node_meta(program)
        decompositions = fx_infra.decomp.pre_convert_decomp()
        program = fx_infra.safe_run_decompositions(program, decompositions, can_skip=False)
        program = core._run_convert_passes(program)
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
        return stream.getvalue()


def _name_layers(program: Any) -> None:
    """Reduces each node's module stack to its own layer path, which the lowering writes down."""
    for node in program.graph.nodes:
        if node.op == "call_function":
            node.meta["nn_module_stack"] = {"layer": ("", layer_path(node))}


def layer_path(node: Any) -> str:
    """Path of the module that a node comes from, `features.0.conv`, or the node's own name."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("L['self']").lstrip(".") or str(node.name)
