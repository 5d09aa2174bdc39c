"""A .tflite file as others make it becomes one that the later stages take, with the same numbers.

Plain calls are written out, known custom ops become builtin ones, stored weights float32, and open
sizes those of a sample. Loops, branches and unknown custom ops stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.data.input_spec import InputSpec
from edgeq.data.open_sizes import fixed_notes, sizes_in
from edgeq.data.rep_dataset import RepDataset
from edgeq.export.importing.constant_ops import compute_constants
from edgeq.export.importing.custom_ops import with_builtin_forms
from edgeq.export.importing.fixed_sizes import fix_sizes, has_open_sizes
from edgeq.export.importing.float_form import make_float, quantized_activation
from edgeq.export.importing.plain_calls import write_out_calls
from edgeq.files import Content
from edgeq.flatbuffer import pack, parse_tree, unpack
from edgeq.flatbuffer.kernel_shapes import settle_shapes
from edgeq.isolation import Worker

Said = tuple[str, ...]
"""Changes to a file that its user should know, one sentence each."""


@dataclass(frozen=True)
class SizeSource:
    """Source of the sizes that a file leaves open.

    Attributes:
        sample: An input to trace with; None takes the first of the data.
        data: The representative data.
    """

    sample: Any
    data: RepDataset

    @property
    def first(self) -> Any:
        """The sample, or the first of the data."""
        return self.data.first_sample() if self.sample is None else self.sample


def import_file(tflite: Content, source: SizeSource, worker: Worker) -> tuple[Content, Said]:
    """Makes a float file with known sizes of one that was read and checked.

    Args:
        tflite: The file, with a signature.
        source: What its open sizes are taken from.
        worker: A child process.

    Returns:
        The file, which is `tflite` itself where nothing had to be changed.

    Raises:
        ModelError: The file is damaged, stores numbers in a way that edgeq cannot read, or the
            runtime does not take the sizes of the sample.
        DataError: The sample does not fit the inputs.
    """
    settled = settle_shapes(tflite)
    tree, notes = unpack(settled), list[str]()
    changed = bool(write_out_calls(tree)) | _rank_scalars(tree)
    if quantized_activation(tree) is None:
        notes += _weights_said(make_float(tree))
    tree, replaced = with_builtin_forms(tree)
    notes += _custom_ops_said(replaced)
    changed = changed or bool(notes)
    if has_open_sizes(parse_tree(tree).graphs[0]):
        notes += _fix_sizes(tree, source, worker)
        write_out_calls(tree)
    elif not compute_constants(tree, worker) and not changed:
        return settled, ()
    return pack(tree), tuple(notes)


def with_fixed_sizes(tflite: Content, source: SizeSource, worker: Worker) -> tuple[Content, Said]:
    """The file without open sizes; how its numbers are stored stays.

    Raises:
        ModelError: The runtime does not take the sizes of the sample.
        DataError: The sample does not fit the inputs.
    """
    tree = unpack(tflite)
    if not has_open_sizes(parse_tree(tree).graphs[0]):
        return tflite, ()
    notes = _fix_sizes(tree, source, worker)
    return pack(tree), notes


def _fix_sizes(tree: Any, source: SizeSource, worker: Worker) -> Said:
    model = parse_tree(tree)
    tensors, ports = model.graphs[0].tensors, model.signatures[0].inputs
    inputs = [InputSpec(name, tensors[t].shape, tensors[t].dtype) for name, t in ports]
    before = {spec.name: spec.shape for spec in inputs}
    after = sizes_in(source.first, inputs)
    fix_sizes(tree, {tensor: after[name] for name, tensor in ports}, worker)
    return tuple(fixed_notes(before, after))


def _rank_scalars(tree: Any) -> bool:
    """Says of scalars that they are some, where a file is from before that could be said.

    The converter takes a tensor without sizes for one of any rank otherwise.
    """
    tensors = [tensor for graph in tree.subgraphs for tensor in graph.tensors or ()]
    found = [t for t in tensors if not t.hasRank and (t.shape is None or len(t.shape) == 0)]
    for tensor in found:
        tensor.hasRank = True
    return bool(found)


def _weights_said(stored: Counter[str]) -> Iterator[str]:
    kinds = {kind: count for kind, count in sorted(stored.items()) if kind != "computed"}
    if kinds:
        listed = " and ".join(f"{count} as {kind}" for kind, count in kinds.items())
        yield (
            f"the file stores constants in fewer bits than float32 ({listed}): they are read as "
            "they are stored, and what that took away from the model before is in no figure here"
        )


def _custom_ops_said(replaced: Sequence[str]) -> Iterator[str]:
    if replaced:
        listed = ", ".join(f"{count} {name}" for name, count in sorted(Counter(replaced).items()))
        yield f"custom ops that LiteRT has no kernel for were replaced by builtin ones: {listed}"
