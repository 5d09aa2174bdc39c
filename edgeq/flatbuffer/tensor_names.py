"""Changes what a file names: tensors, and the names and the order of a signature's inputs.

Knows nothing of what the ops mean.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgeq.errors import ModelError
from edgeq.files import Content
from edgeq.flatbuffer.generated_schema import schema
from edgeq.flatbuffer.graph import Graph
from edgeq.flatbuffer.packing import pack
from edgeq.flatbuffer.parsing import decoded_name, parse, unpack


def with_signature(data: Content) -> Content:
    """The same file with a signature; one that has none gets one from the names of its ports."""
    model = parse(data)
    if model.signatures:
        return data
    tree = unpack(data)
    tree.signatureDefs = [_made_signature(model.graphs[0])]
    return pack(tree)


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number behind each that is empty or was there before."""
    taken, found = set(names), set[str]()
    result = []
    for index, name in enumerate(names):
        if not name or name in found:
            numbered = (f"{name or 'tensor'}#{number}" for number in itertools.count(index))
            name = next(candidate for candidate in numbered if candidate not in taken)
        taken.add(name)
        found.add(name)
        result.append(name)
    return result


def _made_signature(graph: Graph) -> Any:
    def maps(tensors: tuple[int, ...]) -> list[Any]:
        found = []
        names = _distinct([graph.tensors[t].name for t in tensors])
        for name, tensor in zip(names, tensors, strict=True):
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name.encode(), tensor
            found.append(entry)
        return found

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", graph.index
    signature.inputs, signature.outputs = maps(graph.inputs), maps(graph.outputs)
    return signature


def rename_tensors(data: Content, rename: Callable[[int, str], str]) -> Content:
    """The same file with each tensor of the main graph named `rename(index, old name)`."""
    tree = unpack(data)
    for index, tensor in enumerate(tree.subgraphs[0].tensors):
        tensor.name = rename(index, decoded_name(tensor.name)).encode()
    return pack(tree)


def with_inputs(data: Content, order: Sequence[str]) -> Content:
    """The same file with the inputs of the main graph in the order of these signature names."""
    tree = unpack(data)
    named = {decoded_name(entry.name): entry for entry in tree.signatureDefs[0].inputs}
    tree.signatureDefs[0].inputs = [named[name] for name in order if name in named]
    tree.subgraphs[0].inputs = [entry.tensorIndex for entry in tree.signatureDefs[0].inputs]
    return pack(tree)


def with_numbered_outputs(data: Content) -> Content:
    """The same file with the main graph's outputs in the order of its signature.

    Those that are called by numbers, `output_1`, are in that order there.
    """
    tree = unpack(data)
    signature = tree.signatureDefs[0]
    found = [re.fullmatch(r"output_(\d+)", decoded_name(e.name)) for e in signature.outputs]
    numbers = [int(number[1]) if number else 0 for number in found]
    order = sorted(range(len(numbers)), key=numbers.__getitem__ if all(found) else None)
    signature.outputs = [signature.outputs[place] for place in order]
    tree.subgraphs[0].outputs = [entry.tensorIndex for entry in signature.outputs]
    return pack(tree)


def with_port_names(
    data: Content, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> Content:
    """The same file with other names of inputs and outputs in its signature, by the names now.

    Tensors that have such a name get the new one as well.

    Raises:
        ModelError: A name holds a zero byte.
    """
    for name in (*inputs.values(), *outputs.values()):
        if "\0" in name:
            raise ModelError(
                f"{name!r} is no name for an input or output: the runtime ends names at a zero byte"
            )
    tree = unpack(data)
    tensors = tree.subgraphs[0].tensors
    signature = tree.signatureDefs[0]
    for entries, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for entry in entries:
            old = decoded_name(entry.name)
            entry.name = names[old].encode()
            if decoded_name(tensors[entry.tensorIndex].name) == old:
                tensors[entry.tensorIndex].name = entry.name
    return pack(tree)
