"""Says clearly when an upgrade moved what `litert_torch_adapter` uses below the public interface.

Each row is one attribute and the parameters that the adapter passes to it by name or position.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import reduce
from importlib.metadata import version
from typing import Any

import pytest

from edgeq.export.frontends import litert_torch_adapter as adapter

pytest.importorskip("litert_torch")

ADVICE = (
    "Read how this version's own `litert_torch._convert.core.convert_signatures` gets from a "
    "traced program to MLIR, change edgeq/export/frontends/litert_torch_adapter.py and this table "
    "to match, run tests/export/frontends/test_torch.py, then move the pins of litert-torch and "
    "litert-converter in pyproject.toml."
)

USED: dict[str, tuple[str, ...]] = {
    "litert_torch.fx_infra:graph_utils.reset_from_node_meta": ("ep",),
    "litert_torch.fx_infra:decomp.pre_convert_decomp": (),
    "litert_torch.fx_infra:safe_run_decompositions": (
        "exported_program",
        "decomp_table",
        "can_skip",
    ),
    "litert_torch._convert.core:_run_convert_passes": ("exported_program",),
    "litert_torch.backend:export.exported_program_to_mlir": (
        "exported_program",
        "ir_context",
        "lowering_context_plugins",
    ),
    "litert_torch.backend:export_utils.create_ir_context": (),
    "litert_torch.backend.inline_consts:InlineConstsContext": (),
    "torch._export.utils:_materialize_cpp_cia_ops": (),
    "torch.export.exported_program:_populate_param_buffer_metadata_to_new_gm": (
        "params_buffers_to_node_meta",
        "gm",
        "new_sig",
    ),
}
"""Parameters of each Python function, by `module:attribute path`."""


def _find(path: str) -> Callable[..., Any]:
    module, _, attributes = path.partition(":")
    try:
        found: Callable[..., Any] = reduce(
            getattr, attributes.split("."), importlib.import_module(module)
        )
    except (ImportError, AttributeError) as error:
        pytest.fail(f"litert-torch {version('litert-torch')} has no {path} ({error}). {ADVICE}")
    return found


@pytest.mark.parametrize("path", USED)
def test_private_function_is_where_it_was(path: str) -> None:
    found = _find(path)
    parameters = inspect.signature(found).parameters
    missing = [name for name in USED[path] if name not in parameters]
    assert not missing, f"{path} has no parameter {', '.join(missing)} any more. {ADVICE}"
    required = {
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    }
    new = sorted(required - set(USED[path]))
    assert not new, f"{path} demands the new parameter {', '.join(new)}. {ADVICE}"


def test_lowered_module_has_the_fields_that_are_read() -> None:
    lowered = _find("litert_torch.backend:export.MlirLowered")
    fields = inspect.signature(lowered).parameters
    missing = {"module", "output_signature"} - set(fields)
    assert not missing, f"MlirLowered has no field {', '.join(sorted(missing))}. {ADVICE}"


def test_native_signature_setter_takes_the_same_names() -> None:
    # Bound by native code, so only its documentation tells the parameters.
    setter = _find("litert_converter.mlir._mlir_libs.converter_api_ext:set_signature")
    text = str(setter.__doc__)
    missing = [n for n in ("signature_name", "input_names", "output_names") if n not in text]
    assert not missing, f"set_signature has no parameter {', '.join(missing)}: {text} {ADVICE}"


def test_progress_is_switched_by_the_same_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _find("litert_torch._config:config")
    shown = []
    for value in ("n", "y"):
        monkeypatch.setenv(adapter._SHOW_PROGRESS, value)
        shown.append(config.show_progress)
    assert shown == [False, True], f"{adapter._SHOW_PROGRESS} does nothing any more. {ADVICE}"


def test_infinite_constants_are_still_clamped_in_place() -> None:
    """Once this fails, `_own_constants` may leave them."""
    torch = pytest.importorskip("torch")
    clamp = _find("litert_torch.backend.inline_consts:_clamp_inf_values")
    values = torch.tensor([float("-inf")])
    clamp(values)
    assert torch.isfinite(values).all(), f"_clamp_inf_values no longer works in place. {ADVICE}"


def test_a_trace_lists_parameters_as_often_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Listed for each of them, and with the past of each node copied, 600 take a quarter longer."""
    torch = pytest.importorskip("torch")
    signature, source = (
        _find("torch.export.graph_signature:ExportGraphSignature"),
        _find("torch.fx.traceback:NodeSource"),
    )
    listing = signature.inputs_to_parameters
    listed: list[int] = []

    def counted(self: Any) -> Any:
        listed.append(1)
        return listing.fget(self)

    counts = []
    for layers in (1, 9):
        module = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(layers))).eval()
        program = torch.export.export(module, (torch.zeros(1, 4),))
        with monkeypatch.context() as patched:
            patched.setattr(signature, "inputs_to_parameters", property(counted))
            adapter.to_stablehlo(program, ["x"], ["y"])
        counts.append(len(listed))
        listed.clear()
    assert counts[0] == counts[1] > 0, f"{counts} listings of the parameters. {ADVICE}"
    assert not hasattr(source, "__deepcopy__")
