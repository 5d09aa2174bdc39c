"""Small files that end the process which loads them, made and not copied."""

from __future__ import annotations

import numpy as np
from mutations import Builder

from edgeq.flatbuffer import pack, schema, unpack


def empty_blocks(is_hostile: bool = True) -> bytes:
    """Int8 weights whose scales claim to come in blocks, with nothing said of the blocks.

    Source: by experiment; the XNNPACK delegate of LiteRT 2.3 reads the tables that are not there.
    """
    builder = Builder()
    source = builder.input(1, 8)
    weight = builder.constant(np.arange(64).reshape(8, 8) % 7, "int8")
    (real,) = builder.op("DEQUANTIZE", [weight], (8, 8))
    outputs = builder.op("FULLY_CONNECTED", [source, real, -1], (1, 8), options="FullyConnected")
    tree = unpack(builder.finish(outputs))
    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = np.full(8, 0.01, np.float32), np.zeros(8, np.int64)
    if is_hostile:
        parameters.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        parameters.details = schema.BlockwiseQuantizationT()
    tree.subgraphs[0].tensors[weight].quantization = parameters
    return bytes(pack(tree))
