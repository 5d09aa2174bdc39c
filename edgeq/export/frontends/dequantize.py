"""Back to float: a quantized .tflite file with float32 weights and activations.

Everything that has a scale is a real number and becomes float32; what has none (indices, shapes,
token ids) stays as it is. No converter is needed, and the one use of the runtime is to check the
result.
"""

from __future__ import annotations

import os

from edgeq.errors import ModelError
from edgeq.export.frontends import tflite as frontend
from edgeq.export.importing.float_form import float_form
from edgeq.flatbuffer import with_signature
from edgeq.isolation import JobCrashed, JobFailed, Worker
from edgeq.runtime.file_check import damage_told


def dequantize(tflite: bytes | bytearray | str | os.PathLike[str]) -> bytes:
    """Turns a quantized .tflite file back into a float32 one.

    Weights and biases become the real numbers that their integers stand for, activations are no
    longer rounded, QUANTIZE and DEQUANTIZE ops go, and integer ports become float32 under the same
    names. Static int8 and int16, dynamic-range and weight-only files are taken, with weights of 16
    to 2 bits or float16. What quantization clipped or rounded away does not come back.

    Args:
        tflite: The file, or its bytes, from any converter.

    Raises:
        ModelError: Not a .tflite file, or damaged; nothing in it is quantized; or there is no float
            form of it.
    """
    with Worker() as worker:
        content = with_signature(frontend.read_file(tflite, worker))
        with damage_told(content):
            made = float_form(content)
        try:
            worker.call(frontend.KERNEL_CHECK, made, timeout_s=frontend.CHECK_LIMIT_S)
        except (JobCrashed, JobFailed, ModelError) as error:
            reason = getattr(error, "reason", str(error))
            raise ModelError(
                f"the model has no float form: the runtime refuses it ({' '.join(reason.split())})"
            ) from None
    return bytes(made)
