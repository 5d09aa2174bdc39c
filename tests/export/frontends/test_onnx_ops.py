"""Every ONNX op of the table computes what onnxruntime computes, in each form that it comes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_cases import ALL, Array, Case, single

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from edgeq.export.frontends.onnx import child  # noqa: E402
from edgeq.export.frontends.onnx.fusions import fused, pruned  # noqa: E402
from edgeq.export.frontends.onnx.graph_interpreter import specialised  # noqa: E402
from edgeq.export.frontends.onnx.replay import Replay  # noqa: E402


def by_onnxruntime(model: Any, sample: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, sample))


def replayed(model: Any, sample: dict[str, Array], other: dict[str, Array]) -> list[Array]:
    """What the module that was specialised on one sample computes of another."""
    read = child.read_model(model.SerializeToString())
    tensors = [
        {n: torch.from_numpy(a) for n, a in child.bound(read, given).items()}
        for given in (sample, other)
    ]
    program = pruned(fused(specialised(read, tensors[0])))
    module = Replay(program, [f"output_{i}" for i in range(len(program.outputs))])
    named = {f"input_{i}": tensor for i, tensor in enumerate(tensors[1].values())}
    with torch.no_grad():
        return [value.numpy() for value in module(**named).values()]


def shuffled(sample: dict[str, Array]) -> dict[str, Array]:
    generator = np.random.default_rng(9)
    return {
        name: generator.permutation(array.reshape(-1)).reshape(array.shape)
        for name, array in sample.items()
    }


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.label)
def test_an_op_computes_what_onnxruntime_computes(case: Case) -> None:
    model, other = single(case), shuffled(case.sample)
    expected = by_onnxruntime(model, other)
    made = replayed(model, case.sample, other)
    for wanted, found in zip(expected, made, strict=True):
        assert wanted.shape == found.shape
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
