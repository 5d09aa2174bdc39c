"""A worker that is killed from outside changes no result: another one or an error replaces it."""

from __future__ import annotations

import pytest
import torch

import edgeq
from edgeq.errors import ProcessKilledError
from edgeq.isolation import Worker, _KilledError


@pytest.mark.parametrize("recipe", ["int8", "auto"])
@pytest.mark.parametrize("job", ["edgeq.mlir:lower", "edgeq.mlir:quantize"])
def test_a_lost_worker_is_no_refusal(
    job: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    asked = Worker._call

    def killed(self: Worker, name: str, *arguments: object) -> object:
        if name == job:
            raise _KilledError("was killed by SIGKILL")
        return asked(self, name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Worker, "_call", killed)
    with pytest.raises(ProcessKilledError, match=f"that ran {job} was killed by SIGKILL"):
        edgeq.export(model.eval(), torch.randn(12, 8).numpy(), recipe=recipe, progress=False)
