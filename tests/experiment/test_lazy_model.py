"""Which device a model goes to, and what the process sets for it."""

import pytest
import torch

from lora_tta.errors import UserError
from lora_tta.experiment.lazy_model import LazyModel, resolve_device


@pytest.fixture
def gpus(monkeypatch):
    """A machine with this many GPUs; lists those that were made current."""
    current = []

    def build(number: int) -> list[torch.device]:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        return current

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    # Whatever a model sets is put back after the test.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    return build


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_process_works_on_its_first_gpu(gpus, name):
    gpus(2)
    assert resolve_device(name) == torch.device("cuda", 0)


def test_it_is_the_cpu_where_there_is_no_gpu_or_the_settings_say_so(gpus):
    gpus(0)
    assert resolve_device("auto") == torch.device("cpu")
    gpus(2)
    assert resolve_device("cpu") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_an_error_that_names_the_setting(gpus):
    gpus(0)
    with pytest.raises(UserError, match=r"model\.device is cuda.* auto or cpu"):
        resolve_device("cuda")


def test_its_gpu_is_the_current_one_of_the_process_and_gives_the_environment_its_name(gpus, params, tmp_path):
    current = gpus(2)
    model = LazyModel(params.model.model_copy(update={"device": "auto"}), tmp_path)
    assert [device.index for device in current] == [0]
    assert model.environment["device"] == "GPU 0"


def test_measuring_on_a_gpu_is_exact_from_the_start(gpus, params, tmp_path):
    gpus(1)
    LazyModel(params.model, tmp_path)
    assert torch.backends.cudnn.allow_tf32  # on the CPU nothing is set
    LazyModel(params.model.model_copy(update={"device": "auto"}), tmp_path)
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.allow_tf32
