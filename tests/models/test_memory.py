import pytest
import torch
from safetensors.torch import save_file

from lora_tta.errors import UserError
from lora_tta.models import memory


def test_parameters_are_counted_from_headers(tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    save_file({"x": torch.zeros(3, 4), "scalar": torch.tensor(1.0)}, files[0])
    save_file({"y": torch.zeros(5, dtype=torch.bfloat16)}, files[1])
    assert memory.count_parameters(files) == 18


def test_models_that_fit_pass():
    memory.require_memory(1000, torch.float32, "cpu", what="the model")


def test_models_that_do_not_fit_are_refused_with_figures(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 16 * 2**30)
    message = (
        r"the model needs 44\.3 GiB for 11\.89 B parameters in float32, but cpu has 16\.0 GiB available: "
        "load it in bfloat16, or use a GPU"
    )
    with pytest.raises(UserError, match=message):
        memory.require_memory(11_890_000_000, torch.float32, "cpu", what="the model")


def test_cpu_memory_is_what_the_system_reports():
    assert 0 < memory.available_memory("cpu") < 2**50
