"""What an exported model computes on ARM processors is what it computes here, bit for bit.

`scripts/arm_check` does the same with many more models.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from arm import PROCESSORS, RESOLVERS, Machine, Processor, differences
from packages import Unavailable
from run_models import Models, Results, run_models

from edgeq.export.edge_model import EdgeModel


@pytest.fixture(scope="module")
def machine() -> Machine:
    try:
        return Machine()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def models(exported: EdgeModel, demo_images: npt.NDArray[np.float32]) -> Models:
    """The integer model, and the float one, which no two processors round alike."""
    sample = [demo_images[:1]]
    return {"int8": (exported.tflite, sample), "float": (exported.float_model.tflite, sample)}


@pytest.fixture(scope="module")
def here(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("here")
    return run_models([sys.executable], folder, models, tuple(RESOLVERS))


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor.name)
def test_integers_are_the_same_on_arm(
    machine: Machine, processor: Processor, models: Models, here: Results, tmp_path: Path
) -> None:
    there = machine.run(processor, tmp_path, models)
    found = differences(here, there)
    assert {name for name, _ in found} <= {"float"}, found
    assert ("float", "AUTO") in found
    assert all(len(there[name]) == len(RESOLVERS) for name in models)


def test_differences_are_told() -> None:
    one: Results = {"m": {"AUTO": [np.asarray([1, 2, 3], np.int8)], "BUILTIN_REF": "refused"}}
    other: Results = {"m": {"AUTO": [np.asarray([1, 4, 3], np.int8)], "BUILTIN_REF": "refused"}}
    assert differences(one, one) == {}
    assert differences(one, other) == {("m", "AUTO"): "1 of 3 values, by up to 2"}
    other["m"]["BUILTIN_REF"] = [np.zeros(1)]
    assert differences(one, other)["m", "BUILTIN_REF"] == "refused"
