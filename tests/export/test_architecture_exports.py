"""Well-known architectures, exported whole to int8 and judged against floors measured once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import tables
from delegation import check_prediction
from traces import Traces

import edgeq
from edgeq.export.edge_model import EdgeModel
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")
architectures = pytest.importorskip("architectures")

SAMPLES = 20
LARGEST_SIZE_RATIO = 0.32
ROUNDING = 1e-5
"""Largest difference that float rounding makes in a whole model, over the largest output."""

SQNR_FLOOR_DB = {
    "densenet121": 12.8,
    "ghostnet": 14.4,
    "efficientnet_b0": 11.2,
    "regnet_y_400mf": 10.9,
    "mobilenet_v3_large": 13.6,
    "convnext_tiny": 14.8,
    "repvgg_a0": 13.6,
    "mobilenet_v2": 14.8,
    "efficientnet_lite0": 13.9,
    "mobilenet_v1": 14.4,
    "shufflenet_v2": 14.8,
    "resnet18": 15.9,
    "unet": 20.4,
    "mobileone_s0": 9.0,
    "squeezenet1_1": 16.6,
    "audio_net": 20.7,
    "mlp": 29.3,
}
"""About 2 dB below what each architecture reached when it was added; the slowest to trace first."""

SLOW = (
    "mobilenet_v3_large",
    "unet",
    "mobileone_s0",
    "convnext_tiny",
    "efficientnet_b0",
    "densenet121",
    "ghostnet",
    "resnet18",
    "repvgg_a0",
    "regnet_y_400mf",
    "efficientnet_lite0",
    "mobilenet_v1",
    "mobilenet_v2",
    "shufflenet_v2",
)
"""Those that show least beside the others; `scripts/test -m slow` runs them."""

WITH_FLOAT_NORMS = ("convnext_tiny",)
"""Those whose norms are float: they divide by what comes near 0, or spoil the outputs in int8."""


def _check_rewritten(edge: EdgeModel, samples: npt.NDArray[np.float32]) -> None:
    """The rewrites change the float numbers by no more than float rounding does."""
    with (
        Session(edge.float_model.tflite, threads=1) as before,
        Session(edge.rewritten.tflite, threads=1) as after,
    ):
        for sample in samples:
            expected, actual = before.run(sample[None]), after.run(sample[None])
            for name, array in expected.items():
                rounding = ROUNDING * np.abs(array).max()
                np.testing.assert_allclose(actual[name], array, rtol=0, atol=rounding)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SQNR_FLOOR_DB],
)
def test_export_is_small_faithful_and_all_integer(name: str, traces: Traces) -> None:
    torch.set_num_threads(1)
    architecture = architectures.ARCHITECTURES[name]
    model = architectures.perturbed(architecture)
    data = architectures.samples(architecture, SAMPLES)
    # The floors are tested below, so that a miss shows in the table.
    once = edgeq.Recipe("int8", rounding="gptq_once")  # what is shown does not depend on it
    edge = edgeq.export(model, data, recipe=once, min_sqnr_db=None, threads=1, progress=False)
    traces.keep(name, edge.float_model.tflite)
    report = edge.report
    _check_rewritten(edge, data[:2])  # of others a scaled channel may reach where it is cut off
    tables.add_row(
        "architectures in int8",
        {
            "architecture": name,
            "SQNR dB": report.sqnr_db,
            "size ratio": report.size_ratio,
            "delegated": report.delegated_ops,
            "ops": report.total_ops,
            "float ops before": len(edge.float_model.graph.operators),
            "after rewrites": len(edge.rewritten.graph.operators),
            "partitions": report.partitions,
            "latency ratio": report.latency_ratio,
            "trace s": report.seconds["trace"],
            "export s": sum(report.seconds.values()),
        },
    )
    if name not in WITH_FLOAT_NORMS:
        assert report.float_ops == {}
        assert "float32" not in report.op_counts
    said = ("within 4 int8 steps of", "leave the outputs")
    assert all(any(part in why for part in said) for why in report.float_ops.values())
    assert report.independent
    assert report.size_ratio <= LARGEST_SIZE_RATIO
    assert report.sqnr_db >= SQNR_FLOOR_DB[name]
    check_prediction(edge.float_model.tflite)
    check_prediction(edge.tflite)
    assert edgeq.lint(edge.tflite).errors == ()
