"""What ONNX itself holds runtimes against: each of its models of one op is computed, or refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from edgeq.errors import DataError, ModelError, UnsupportedOpError  # noqa: E402
from edgeq.export.frontends.onnx import child  # noqa: E402
from edgeq.export.frontends.onnx.fusions import fused, pruned  # noqa: E402
from edgeq.export.frontends.onnx.graph_interpreter import specialised  # noqa: E402
from edgeq.export.frontends.onnx.reference import check, sqnr_db  # noqa: E402
from edgeq.export.frontends.onnx.replay import Replay  # noqa: E402

DIFFERING = {
    "test_bitwise_not_3d": "uint16 is computed in the next wider type",
    "test_dynamicquantizelinear": "dynamic quantization is left out, and its integers are outputs",
    "test_dynamicquantizelinear_max_adjusted": "the same",
    "test_dynamicquantizelinear_min_adjusted": "the same",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal": "products past a mask",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal": "the same",
}
"""Of which onnxruntime computes other numbers."""

LEAST_COMPUTED = 1400
"""Of some 1900 cases: the others take text, sequences or what an input decides over."""


def cases() -> list[Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {case.name: case for case in collect_testcases(None)}
    return [case for case in found.values() if case.model is not None and case.data_sets]


def without_inputs(model: Any, arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model with the inputs that may be shapes or places as constants."""
    from onnx import ModelProto, numpy_helper

    known = [n for n, a in arrays.items() if a.dtype.kind in "iub" or a.size <= 8]
    known = known[1:] if len(known) == len(arrays) else known
    made = ModelProto()
    made.CopyFrom(model)
    made.graph.initializer.extend(numpy_helper.from_array(arrays[n], n) for n in known)
    kept = [value for value in made.graph.input if value.name not in known]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    return made, {name: array for name, array in arrays.items() if name not in known}


def compute(model: Any, arrays: dict[str, Any]) -> None:
    """Interprets a model, compares it with onnxruntime, and runs what is to be traced."""
    read = child.read_model(model.SerializeToString())
    given = child.bound(read, arrays)
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}
    program = specialised(read, tensors)
    check(read, given, program)
    names = [f"output_{i}" for i in range(len(program.outputs))]
    module = Replay(pruned(fused(program)), names)
    inputs = {f"input_{i}": tensor for i, tensor in enumerate(tensors.values())}
    with torch.no_grad():
        made = module(**inputs)
    for value, found in zip(program.outputs.values(), made.values(), strict=True):
        assert sqnr_db(value.plain.numpy(), found.numpy()) > 60


@pytest.mark.slow
def test_each_of_onnxs_own_cases_is_computed_or_refused() -> None:
    computed, failed = 0, {}
    for case in cases():
        given = case.data_sets[0][0]
        names = [value.name for value in case.model.graph.input]
        if not all(isinstance(one, np.ndarray | np.generic) for one in given):
            continue  # sequences, what is left out, and numbers that numpy has not
        arrays = {name: np.asarray(one) for name, one in zip(names, given, strict=False)}
        try:
            try:
                compute(case.model, arrays)
            except (UnsupportedOpError, ModelError):
                compute(*without_inputs(case.model, arrays))
        except (UnsupportedOpError, ModelError, DataError):
            continue
        except Exception as error:  # whatever is no sentence of edgeq, and numbers that differ
            failed[case.name] = repr(error)
            continue
        computed += 1
    assert failed.keys() <= DIFFERING.keys(), {n: failed[n] for n in failed.keys() - DIFFERING}
    assert computed > LEAST_COMPUTED
