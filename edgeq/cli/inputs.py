"""How arguments become models, data and functions."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeq.cli.state_options import with_states
from edgeq.data.input_spec import InputSpec
from edgeq.data.readers import open_with_settings, parse_setting, read_settings
from edgeq.errors import DataError, EdgeqError, ModelError
from edgeq.export.portspec import PortSpec
from edgeq.files import read_content
from edgeq.model import LiteModel
from edgeq.runtime import native_logs


def load_function(text: str, what: type[EdgeqError]) -> Any:
    """The object that `module:name` names, found also in the working directory."""
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise what(f"{text!r} must be module:function, for example my_package.net:build")
    try:
        with native_logs.informational_dropped(), _working_folder_last():
            found = _imported_from_here(module)
        return getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise what(f"cannot load {text!r}: {error}") from None


@contextlib.contextmanager
def _working_folder_last() -> Iterator[None]:
    """Modules of the working folder are found, but none in place of one that is installed."""
    try:
        folder = str(Path.cwd())
    except OSError:  # it was removed
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _imported_from_here(module: str) -> ModuleType:
    """The module that was named, from the working folder if it is there."""
    top = module.partition(".")[0]
    spec = PathFinder.find_spec(top, sys.path[-1:])
    if spec is not None and spec.loader is not None and top not in sys.modules:
        sys.modules[top] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[top])
        except BaseException:
            del sys.modules[top]
            raise
    return importlib.import_module(module)


def is_function(text: str) -> bool:
    return ":" in text and not Path(text).exists()


def load_model(text: str) -> Any:
    if not is_function(text):
        return text
    made = load_function(text, ModelError)
    if not callable(made):
        raise ModelError(f"{text!r} must be a function that returns the model")
    return made()


def load_data(
    text: str,
    config: Path | None,
    options: list[str] | None,
    model: str,
    states: list[str] | None = None,
    start: Path | None = None,
) -> Any:
    """What `--data` names, as sequences where `--state` names states."""
    return with_states(_opened(text, config, options, model), states, start)


def _opened(text: str, config: Path | None, options: list[str] | None, model: str) -> Any:
    if is_function(text):
        if config is not None or options:
            raise DataError("--data-config and --data-option are for files, not for a function")
        return load_function(text, DataError)
    settings = read_settings(config) if config is not None else {}
    settings.update(map(parse_setting, options or []))
    return open_with_settings(text, settings, inputs_of(model) if Path(text).is_dir() else ())


def inputs_of(model: str) -> tuple[InputSpec, ...]:
    """The inputs of a .tflite; none of other models and of files that the export will refuse."""
    with contextlib.suppress(OSError, EdgeqError):
        if Path(model).suffix == ".tflite":
            tensors = LiteModel(read_content(model), "tflite").input_tensors()
            return tuple(InputSpec(name, t.shape, t.dtype) for name, t in tensors)
    return ()


def port_spec(dtype: str | None, known: tuple[float, float] | None) -> PortSpec | None:
    """Port request of one side from its options; None leaves it to the target."""
    if dtype is None and known is None:
        return None
    return PortSpec(dtype or "float32", known)


def load_metrics(names: list[str] | None) -> dict[str, Any] | None:
    """Metrics by the names to report them by; None leaves it to the labels."""
    if not names:
        return None
    return {n: load_function(n, DataError) if is_function(n) else n for n in names}
