"""The Flax front end: a linen or nnx module becomes a function of parameters and inputs.

The caller's module is not changed: linen's are frozen, and of an nnx module a copy is called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from edgeq.errors import ModelError
from edgeq.export.frontends import jax as frontend
from edgeq.isolation import Worker
from edgeq.model import LiteModel

_IN_EVALUATION = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}
"""Values, in evaluation, of the parameters of `__call__` that tell it from training."""


def handles(model: object) -> bool:
    """Whether `model` is a Flax module, told without importing Flax."""
    return _is_linen(model) or _is_nnx(model)


def trace(model: Any, params: Any, sample: Any, worker: Worker) -> LiteModel:
    """Traces and lowers a Flax module in evaluation mode.

    Args:
        model: `flax.linen.Module`, or `flax.nnx.Module`, which has its parameters in it.
        params: The variables of a linen module, `{"params": ..., "batch_stats": ...}`.
        sample: As for the JAX front end.
        worker: The converter's child process.

    Raises:
        EdgeqError: As for the JAX front end; `ModelError` also where `params` is missing.
    """
    frontend.check_installed()
    function = _linen(model, params) if _is_linen(model) else _nnx(model, params)
    return frontend.trace_function(function, sample, worker)


def _is_linen(model: object) -> bool:
    return _is_a(model, "flax.linen.")


def _is_nnx(model: object) -> bool:
    return _is_a(model, "flax.nnx.")


def _is_a(model: object, package: str) -> bool:
    kinds = type(model).__mro__
    return any(k.__name__ == "Module" and k.__module__.startswith(package) for k in kinds)


def _linen(module: Any, variables: Any) -> frontend.Function:
    name = type(module).__name__
    if variables is None and module.scope is not None:
        module, variables = module.unbind()
    if isinstance(variables, Mapping) and variables and "params" not in variables:
        variables = {"params": variables}
    if not isinstance(variables, Mapping) or "params" not in variables:
        received = "nothing" if variables is None else f"{type(variables).__name__} without it"
        raise ModelError(
            f"the linen module {name} needs its variables: pass params=variables, as module.init "
            f"returned them or training left them, with the key 'params'. Received: {received}"
        )
    signature, fixed = _evaluation(type(module).__call__)
    written: dict[tuple[str, ...], Any] = {}
    others = [collection for collection in variables if collection != "params"]

    def call(variables: Any, *inputs: Any, **named: Any) -> Any:
        made, behind = module.apply(variables, *inputs, **named, **fixed, mutable=others)
        _set_written(written, _arrays(variables), _arrays(behind))
        return made

    return frontend.Function(
        call, variables, signature, name, lambda path: "/".join(path[1:-1]), module.name or name,
        "flax", written=written,
    )  # fmt: skip


def _nnx(module: Any, params: Any) -> frontend.Function:
    from flax import nnx

    name = type(module).__name__
    if params is not None:
        raise ModelError(
            f"the nnx module {name} has its parameters in it; leave out params=, or put them in "
            "with nnx.update(module, params) first"
        )
    signature, fixed = _evaluation(type(module).__call__)
    definition, state = nnx.split(module)
    written: dict[tuple[str, ...], Any] = {}

    def call(state: Any, *inputs: Any, **named: Any) -> Any:
        copy = nnx.merge(definition, state)
        copy.eval()
        _name_layers(copy)
        before = _arrays(state)  # the copy writes into it
        made = copy(*inputs, **named, **fixed)
        _set_written(written, before, _arrays(nnx.state(copy)))
        return made

    return frontend.Function(
        call, state, signature, name, lambda path: ".".join(path[:-2]), origin="flax",
        written=written,
    )  # fmt: skip


def _set_written(
    written: dict[tuple[str, ...], Any],
    before: Mapping[tuple[str, ...], Any],
    behind: Mapping[tuple[str, ...], Any],
) -> None:
    """Puts what a call has written into `written`, and nothing else."""
    written.clear()
    pairs = ((path, before.get(path), array) for path, array in behind.items())
    written.update((path, array) for path, old, array in pairs if old is not array)


def _arrays(state: Any) -> dict[tuple[str, ...], Any]:
    """The arrays of a state by path."""
    import jax

    from edgeq.export.frontends.jaxpr.parameters import parts

    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {parts(path): leaf for path, leaf in leaves}


def _evaluation(function: Any) -> tuple[inspect.Signature, dict[str, bool]]:
    """The signature without `self` and what tells training from evaluation, and the latter."""
    signature = inspect.signature(function)
    kept = [p for p in list(signature.parameters.values())[1:] if p.name not in _IN_EVALUATION]
    fixed = {n: v for n, v in _IN_EVALUATION.items() if n in signature.parameters}
    return signature.replace(parameters=kept), fixed


def _name_layers(module: Any) -> None:
    """Has every part of a module compute in a scope of its own path; changes its classes."""
    from flax import nnx

    for path, part in nnx.iter_modules(module):
        if path and callable(part):
            object.__setattr__(part, "__class__", _scoped(type(part), ".".join(map(str, path))))


def _scoped(kind: type, path: str) -> type:
    """A subclass whose calls run in the scope of `path`."""
    import jax

    from edgeq.export.frontends.jaxpr import ABSOLUTE

    @functools.wraps(kind.__call__)
    def call(self: Any, *inputs: Any, **named: Any) -> Any:
        with jax.named_scope(ABSOLUTE + path):
            return kind.__call__(self, *inputs, **named)

    return type(kind)(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})
