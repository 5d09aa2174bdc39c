"""All calls that stand for recurrent layers become what the runtime has for them."""

from __future__ import annotations

from edgeq.export.importing.sequence_loop import with_sequence_loops
from edgeq.export.importing.sequence_lstm import with_sequence_lstms
from edgeq.files import Content


def with_recurrent_layers(tflite: Content) -> Content:
    """The file without such calls; the file itself where it has none.

    Raises:
        ModelError: A weight of a call is computed.
    """
    return with_sequence_loops(with_sequence_lstms(tflite))
