"""External delegates: shared libraries that run ops on other hardware, the Edge TPU's among them.

Every way in which loading one fails has its own sentence. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import DelegateError
from edgeq.runtime.backend import Backend
from edgeq.targets import edgetpu

Options = Mapping[str, object]

EDGETPU = edgetpu.EDGETPU.name
PLAIN = ("none", "reference")
DELEGATES = ("xnnpack", *PLAIN, EDGETPU)
_ENTRY_POINTS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
_MISSING = re.compile(r"(\S+): cannot open shared object file: No such file")
_LIBRARY_NAME = re.compile(r"[\\/]|\.(so(\.\d+)*|dylib|dll)$")

EDGETPU_LIBRARIES = {
    "Linux": "libedgetpu.so.1",
    "Darwin": "libedgetpu.1.dylib",
    "Windows": "edgetpu.dll",
}
"""File name of the Edge TPU's run time on each system."""

GET_EDGETPU = (
    "On Debian, Ubuntu and Raspberry Pi OS add Coral's package source as "
    "coral.ai/docs/accelerator/get-started describes, then run "
    "`sudo apt-get install libedgetpu1-std`; for newer systems the community builds "
    "feranick/libedgetpu on GitHub"
)
PERFORMANCES = ("Low", "Medium", "High", "Max")
"""Values of the Edge TPU's option `Performance`: its clock, and so its heat."""

_EDGETPU_DEVICE = re.compile(r"(usb|pci)?(:\d+)?")
_DEVICE_KINDS = {0: "pci", 1: "usb"}
MOST_DEVICES = 64
"""A longer list of devices than this is taken for a library that is none of Coral's."""


def is_library(delegate: str) -> bool:
    """Whether a delegate is named by its file instead of by a word."""
    return _LIBRARY_NAME.search(delegate) is not None


def check_delegate(delegate: str, options: Options | None) -> None:
    """Raises a `DelegateError` for no delegate, or options of one that takes none."""
    is_known = isinstance(delegate, str) and (delegate in DELEGATES or is_library(delegate))
    if not is_known:
        raise DelegateError(
            f"delegate must be one of {', '.join(DELEGATES)}, or the path of a library. "
            f"Received: {delegate!r}"
        )
    if options and not is_library(delegate) and delegate != EDGETPU:
        raise DelegateError(f"the delegate {delegate!r} takes no options; a library does")


def load_delegate(backend: Backend, delegate: str, options: Options) -> Any:
    """Loads a delegate for an interpreter.

    Args:
        backend: The interpreter that it is for.
        delegate: `EDGETPU`, or the path or name of a library.
        options: What the library is told; values are passed as text.

    Raises:
        DelegateError: The library is missing, is none, or refuses.
    """
    library = edgetpu_library() if delegate == EDGETPU else delegate
    _open(library, delegate == EDGETPU)
    told = edgetpu_options(options) if delegate == EDGETPU else options
    try:
        return backend.module.load_delegate(library, {k: str(v) for k, v in told.items()})
    except ValueError as error:
        reason = " ".join(str(error).split()).removeprefix(
            f"Failed to load delegate from {library}"
        )
        raise _refusal(delegate, library, reason.strip(), told) from None


def edgetpu_library() -> str:
    """File name of the Edge TPU's run time on this system, or what `EDGEQ_EDGETPU` names."""
    return os.environ.get("EDGEQ_EDGETPU") or EDGETPU_LIBRARIES.get(
        platform.system(), EDGETPU_LIBRARIES["Linux"]
    )


@dataclass(frozen=True)
class EdgeTPU:
    """One Edge TPU of this machine.

    Attributes:
        device: What the option `device` calls it, for example `"usb:0"`.
        path: Where the system has it.
    """

    device: str
    path: str


def edgetpu_devices() -> tuple[EdgeTPU, ...]:
    """The Edge TPUs that the run time sees, busy ones included.

    Raises:
        DelegateError: The run time is not installed, or is another library.
    """

    class Entry(ctypes.Structure):
        _fields_ = (("kind", ctypes.c_int), ("path", ctypes.c_char_p))

    name = edgetpu_library()
    library = _open(name, is_edgetpu=True)
    try:
        list_devices, free_devices = library.edgetpu_list_devices, library.edgetpu_free_devices
    except AttributeError:
        raise DelegateError(f"{name} is not the Edge TPU's run time: it lists no devices") from None
    list_devices.restype = ctypes.POINTER(Entry)
    count = ctypes.c_size_t(0)
    entries = list_devices(ctypes.byref(count))
    if not entries or count.value > MOST_DEVICES:
        return ()
    kinds = [(_DEVICE_KINDS.get(e.kind, "?"), e.path or b"") for e in entries[: count.value]]
    free_devices(entries)
    return tuple(
        EdgeTPU(f"{kind}:{[k for k, _ in kinds[:place]].count(kind)}", path.decode())
        for place, (kind, path) in enumerate(kinds)
    )


def edgetpu_options(options: Options) -> dict[str, str]:
    """Checks the options of the Edge TPU and makes them what its run time reads.

    Args:
        options: `device` is `"usb"`, `"pci"`, or one of them or nothing with an index, such as
            `"usb:1"` or `":0"`; `Performance` is one of `PERFORMANCES`. Others are passed on.

    Returns:
        The options. The run time reads `Performance` only beside a device with an index, and so
        the first one of its kind is named where there is none.

    Raises:
        DelegateError: A value that the run time would ignore or fail on without a reason.
    """
    found = {name: str(value) for name, value in options.items()}
    device = found.get("device", "")
    if _EDGETPU_DEVICE.fullmatch(device) is None:
        raise DelegateError(
            "the Edge TPU's option device must be usb, pci, usb:<n>, pci:<n> or :<n>. "
            f"Received: {device!r}"
        )
    performance = found.get("Performance")
    if performance is not None and performance not in PERFORMANCES:
        raise DelegateError(
            f"the Edge TPU's option Performance must be one of {', '.join(PERFORMANCES)}. "
            f"Received: {performance!r}"
        )
    if len(found) > ("device" in found) and ":" not in device:
        found["device"] = f"{device}:0"
    return found


def _open(library: str, is_edgetpu: bool) -> Any:
    """Opens a library itself, since the interpreter's own loader prints noise on failing."""
    if os.path.dirname(library) and not Path(library).is_file():
        raise DelegateError(f"the delegate library {library} does not exist")
    try:
        opened = ctypes.CDLL(library)
    except OSError as error:
        raise _not_opened(library, str(error), is_edgetpu) from None
    for name in _ENTRY_POINTS:
        if not hasattr(opened, name):
            raise DelegateError(
                f"{library} is a library, but no LiteRT delegate: it has no function {name}"
            )
    return opened


def _not_opened(library: str, error: str, is_edgetpu: bool) -> DelegateError:
    missing = _MISSING.search(error)
    is_itself = missing is not None and Path(missing[1]).name == Path(library).name
    if is_edgetpu and (is_itself or (missing is None and not Path(library).exists())):
        return DelegateError(f"the Edge TPU's run time {library} is not installed. {GET_EDGETPU}")
    if missing is not None and not is_itself:
        return DelegateError(
            f"{library} needs the library {missing[1]}, which is not installed; on Debian "
            f"`apt-get install apt-file && apt-file search {missing[1]}` names its package"
        )
    if missing is not None:
        return DelegateError(f"there is no delegate library {library} on the library path")
    return DelegateError(f"{library} is not a shared library for this machine: {error}")


def _refusal(delegate: str, library: str, reason: str, options: Options) -> DelegateError:
    """Why a library that was opened made no delegate."""
    told = ", ".join(f"{name}={value}" for name, value in options.items()) or "none"
    if reason or delegate != EDGETPU:
        return DelegateError(
            f"the delegate {library} refused: {reason or 'it gives no reason'} (options: {told})"
        )
    devices: tuple[EdgeTPU, ...] = ()
    with contextlib.suppress(DelegateError):
        devices = edgetpu_devices()
    if not devices:
        return DelegateError(
            "no Edge TPU was found: plug it in, check that lsusb shows 1a6e:089a or 18d1:9302, or "
            "for PCIe that /dev/apex_0 exists"
        )
    seen = ", ".join(d.device for d in devices)
    wanted = str(options.get("device", ""))
    if wanted and not any(_is_meant(wanted, place, d) for place, d in enumerate(devices)):
        return DelegateError(f"there is no Edge TPU {wanted}; this machine has {seen}")
    return DelegateError(
        f"the Edge TPU is busy or may not be opened ({seen} are there): another process may use "
        "it, or this user may lack the udev rule that libedgetpu's package installs"
    )


def _is_meant(wanted: str, place: int, device: EdgeTPU) -> bool:
    if wanted.startswith(":"):
        return wanted == f":{place}"
    return wanted in (device.device, device.device.partition(":")[0])
