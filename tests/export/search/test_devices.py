"""Processors to plan for: their tables, what they are fitted to, and what a report says of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from one_op import SAME, OneOp, Step, Value

import edgeq
from edgeq import RecipeError
from edgeq.export.search.costs import Costs
from edgeq.export.search.devices import DEFAULT, DEVICES, as_costs

KERNEL = np.random.default_rng(0).normal(size=(16, 3, 3, 8)).astype(np.float32)
CASE = OneOp(
    "a convolution",
    {"image": Value((1, 16, 16, 8))},
    (
        Step(
            "CONV_2D", ("image", KERNEL, np.zeros(16, np.float32)),
            {"features": Value((1, 16, 16, 16))},
            {"padding": SAME, "strideH": 1, "strideW": 1},
        ),
    ),
)  # fmt: skip
IMAGES = np.concatenate([sample["image"] for sample in CASE.draw(12)])

MOBILENETS = {
    "MobileNet v1": (551.4, 17.4, 10.19),
    "MobileNet v2": (280.1, 20.7, 14.09),
}
"""Millions of multiplications of convolutions and depthwise ones, and of elements."""

PUBLISHED_MS = {
    ("cortex-a53", "float32"): (114, 79),
    ("cortex-a53", "int8"): (46, 30),
    ("phone", "float32"): (88, 55),
}
"""Of both, in the README of XNNPACK."""


@pytest.mark.parametrize("name", DEVICES)
def test_every_table_is_whole_and_says_where_it_is_from(name: str) -> None:
    device = DEVICES[name]
    assert device.costs.name == name
    assert Costs.from_json(device.costs.to_json()) == device.costs
    assert re.search(r"20\d\d", device.source)


@pytest.mark.parametrize(("name", "form"), PUBLISHED_MS)
def test_arm_tables_give_the_times_that_they_are_fitted_to(name: str, form: str) -> None:
    rates = getattr(DEVICES[name].costs, form)["convolution"]
    for work, published in zip(MOBILENETS.values(), PUBLISHED_MS[name, form], strict=True):
        macs, depthwise, elements = work
        found = (macs + 3 * depthwise) * rates.mac_ns + elements * rates.element_ns
        assert found == pytest.approx(published, rel=0.02)


def test_a_device_is_a_name_or_a_table(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(DEVICES["phone"].costs.to_json())
    assert as_costs(path) == as_costs("phone")
    message = "device must be one of x86-vnni, x86-avx2, cortex-a53, phone, or the path of a cost"
    with pytest.raises(RecipeError, match=message):
        as_costs("cray")
    with pytest.raises(RecipeError, match=message):
        edgeq.plan(CASE.build(), IMAGES, device=3, progress=False)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="costs and device both say what to plan for"):
        edgeq.plan(CASE.build(), IMAGES, device="phone", costs=path, progress=False)


def test_a_report_says_what_was_planned_for_and_what_was_estimated() -> None:
    model = CASE.build()
    plain = edgeq.export(model, IMAGES, progress=False)
    named = edgeq.export(model, IMAGES, device=DEFAULT, progress=False)
    assert plain.tflite == named.tflite
    assert (plain.report.planned_for, named.report.planned_for) == (DEFAULT, DEFAULT)
    slow = edgeq.export(model, IMAGES, device="cortex-a53", progress=False).report
    assert slow.estimated_ratio is not None
    assert 0 < slow.estimated_ratio < 2
    line = next(line for line in slow.text().splitlines() if "estimated for cortex-a53" in line)
    assert f"{slow.estimated_ratio:.2f}" in line
    given = edgeq.export(model, IMAGES, recipe="int8", progress=False).report
    assert (given.planned_for, given.estimated_ratio) == ("", None)
