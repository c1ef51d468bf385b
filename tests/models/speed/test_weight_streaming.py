from io import FileIO
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lora_tta.models.speed import weight_streaming as weights
from lora_tta.models.speed.weight_streaming import read_weights

STORED = {
    "matrix": torch.arange(70, dtype=torch.float32).view(7, 10),
    "bfloat16": torch.arange(5).bfloat16(),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 4),
    "flags": torch.tensor([True, False, True]),
    "indices": torch.arange(9),
}


@pytest.fixture
def files(tmp_path):
    names = list(STORED)
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for path, part in zip(paths, (names[:3], names[3:]), strict=True):
        save_file({name: STORED[name] for name in part}, path, metadata={"format": "pt"})
    return paths


@pytest.fixture(params=[48, 2**20], ids=["in parts", "whole"])
def part_bytes(request, monkeypatch):
    monkeypatch.setattr(weights, "PART_BYTES", request.param)


@pytest.mark.usefixtures("part_bytes")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def test_weights_are_those_of_the_files_with_numbers_in_the_asked_dtype(files, dtype, device):
    read = read_weights(files, torch.device(device), dtype)
    assert read.keys() == STORED.keys()
    for name, tensor in STORED.items():
        expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert read[name].device.type == device
        torch.testing.assert_close(read[name].cpu(), expected, rtol=0, atol=0)


def test_a_file_that_was_cut_off_is_refused(files):
    files[1].write_bytes(files[1].read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        read_weights(files, torch.device("cpu"), torch.float32)


class EndedFile(FileIO):
    def readinto(self, buffer):
        return 0


def test_a_file_that_shrinks_while_it_is_read_is_an_error(files, monkeypatch):
    monkeypatch.setattr(Path, "open", lambda path, mode: EndedFile(path, mode))
    with pytest.raises(OSError, match="ended while it was being read"):
        read_weights(files, torch.device("cpu"), torch.float32)
