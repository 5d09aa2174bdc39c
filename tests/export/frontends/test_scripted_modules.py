"""TorchScript modules are exported as what they compute, alone and inside other modules."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from edgeq.converter import start_converter
from edgeq.data.rep_dataset import RepDataset
from edgeq.export import frontends
from edgeq.fidelity.sqnr import Fidelity
from edgeq.runtime.session import Session

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

nn = torch.nn

IMAGE = np.random.default_rng(0).normal(size=(1, 3, 10, 10)).astype(np.float32)


class Normalised(nn.Module):
    """Branches on a shape, and loops over sizes inside its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(image))
        return torch.relu(x) if x.shape[2] > 4 else x


class Around(nn.Module):
    """A plain module that holds a script."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(script), nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(image).mean((2, 3)))


def scripted() -> Any:
    return torch.jit.script(Normalised().eval())


def recorded() -> Any:
    return torch.jit.trace(Normalised().eval(), torch.from_numpy(IMAGE))


def loaded_in_training() -> Any:
    stored = io.BytesIO()
    torch.jit.save(torch.jit.script(Normalised().train()), stored)
    stored.seek(0)
    return torch.jit.load(stored)


def held() -> Any:
    return Around(torch.jit.freeze(scripted())).eval()


@pytest.mark.parametrize("make", [recorded, loaded_in_training, held])
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_scripts_are_exported_and_stay_as_they_are(make: Any) -> None:
    torch.manual_seed(0)
    model = make()
    was_training = model.training
    with start_converter() as worker:
        found = frontends.trace(model, {"image": IMAGE}, RepDataset([IMAGE]), worker)
    assert model.training is was_training
    assert any("TorchScript modules have no paths" in note for note in found.notes)
    with Session(found.tflite) as session:
        assert session.input_names == ("image",)
        (output,) = session.run(IMAGE).values()
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(IMAGE)).numpy()
    assert Fidelity.of(expected, output).sqnr_db > 90
