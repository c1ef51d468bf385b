import hashlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lpips
import pytest
import torch
from torchvision.models import alexnet

from lora_tta.errors import UserError
from lora_tta.evaluation.perceptual import decide_mode, load_perceptual_distance

FEATURE_SHAPES = {
    0: (64, 3, 11, 11),
    3: (192, 64, 5, 5),
    6: (384, 192, 3, 3),
    8: (256, 384, 3, 3),
    10: (256, 256, 3, 3),
}
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    """A file with the layout of the published one, its hash in its name: features and a classifier layer."""
    generator = torch.Generator().manual_seed(1)
    weights = {"classifier.6.bias": torch.zeros(1000)}
    for index, shape in FEATURE_SHAPES.items():
        weights[f"features.{index}.weight"] = 0.05 * torch.randn(shape, generator=generator)
        weights[f"features.{index}.bias"] = 0.05 * torch.randn(shape[0], generator=generator)
    file = tmp_path_factory.mktemp("published") / "alexnet.pth"
    torch.save(weights, file)
    return file.rename(file.with_name(f"alexnet-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Path]:
    """An empty checkpoint folder of torch hub."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def site(backbone: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server that publishes the file; its address and the requests it got."""
    requests = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code="-", size="-"):
            requests.append(f"{self.command} {int(code)}")

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=backbone.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@pytest.fixture
def frames() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    first, second = (255 * torch.rand(3, 3, 64, 64, generator=generator) for _ in range(2))
    return first, second


def test_a_file_in_the_checkpoint_folder_makes_lpips(backbone, checkpoints, frames):
    (checkpoints / backbone.name).write_bytes(backbone.read_bytes())
    distance = load_perceptual_distance("required", "cpu", f"{UNREACHABLE}/{backbone.name}")
    assert distance.name == "lpips"
    assert distance(*frames).shape == (3,)


def test_lpips_is_the_weighted_distance_of_normalised_features(backbone, checkpoints, frames):
    (checkpoints / backbone.name).write_bytes(backbone.read_bytes())
    distance = load_perceptual_distance("required", "cpu", f"{UNREACHABLE}/{backbone.name}")

    features = alexnet().features
    published = torch.load(backbone)
    features.load_state_dict(
        {name[9:]: value for name, value in published.items() if name.startswith("features.")}
    )
    heads = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth", map_location="cpu")
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]

    def activations(pictures: torch.Tensor) -> list[torch.Tensor]:
        hidden, found = (pictures / 127.5 - 1 - shift) / scale, []
        for index, layer in enumerate(features):
            hidden = layer(hidden)
            if index in (1, 4, 7, 9, 11):
                found.append(hidden / (hidden.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    with torch.no_grad():
        expected = sum(
            (heads[f"lin{level}.model.1.weight"] * (a - b).square()).sum(1).mean((1, 2))
            for level, (a, b) in enumerate(zip(*map(activations, frames), strict=True))
        )
    torch.testing.assert_close(distance(*frames), expected)


def test_a_missing_file_is_fetched_and_kept(backbone, checkpoints, site):
    address, requests = site
    for _ in range(2):
        assert load_perceptual_distance("required", "cpu", f"{address}/{backbone.name}").name == "lpips"
    assert requests == ["HEAD 200", "GET 200"]
    assert [file.name for file in checkpoints.iterdir()] == [backbone.name]


def test_a_download_with_another_hash_is_thrown_away(backbone, checkpoints, site):
    address, _ = site
    (backbone.parent / "alexnet-00000000.pth").write_bytes(backbone.read_bytes())
    with pytest.raises(UserError, match=r"could not be fetched .*invalid hash value"):
        load_perceptual_distance("required", "cpu", f"{address}/alexnet-00000000.pth")
    assert list(checkpoints.iterdir()) == []


def test_a_damaged_file_never_counts_as_trained(backbone, checkpoints, site):
    address, requests = site
    damaged = checkpoints / backbone.name
    damaged.write_bytes(backbone.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged or another file"):
        load_perceptual_distance("required", "cpu", f"{address}/{backbone.name}")
    assert load_perceptual_distance("auto", "cpu", f"{address}/{backbone.name}").name == "lpips_untrained"
    assert requests == []


def test_a_required_backbone_names_the_file_its_source_and_its_place(checkpoints):
    url = f"{UNREACHABLE}/alexnet-12345678.pth"
    with pytest.raises(UserError) as error:
        load_perceptual_distance("required", "cpu", url)
    message = str(error.value)
    assert "evaluation.lpips is 'required'" in message
    assert f"download {url} to {checkpoints / 'alexnet-12345678.pth'}" in message
    assert "\n" not in message


def test_auto_without_the_backbone_warns_and_renames_the_metric(checkpoints, caplog):
    with caplog.at_level(logging.WARNING):
        distance = load_perceptual_distance("auto", "cpu", f"{UNREACHABLE}/alexnet-23456789.pth")
    assert distance.name == "lpips_untrained"
    assert "LPIPS IS NOT AVAILABLE: alexnet-23456789.pth is not in" in caplog.text
    assert "lpips_untrained" in caplog.text


@pytest.mark.parametrize("mode", ["untrained", "required"])
def test_distances_between_neighbours_are_those_of_pairs(backbone, checkpoints, frames, mode):
    (checkpoints / backbone.name).write_bytes(backbone.read_bytes())
    distance = load_perceptual_distance(mode, "cpu", f"{UNREACHABLE}/{backbone.name}")
    video = torch.cat(frames)
    with torch.inference_mode():
        torch.testing.assert_close(
            distance.between_neighbours(video), distance(video[:-1], video[1:]), rtol=1e-4, atol=1e-6
        )


def test_what_auto_comes_to_is_decided_by_the_weights_that_are_at_hand(backbone, checkpoints):
    url = f"{UNREACHABLE}/{backbone.name}"
    assert decide_mode("auto", url) == "untrained"
    (checkpoints / backbone.name).write_bytes(backbone.read_bytes())
    assert decide_mode("auto", url) == "required"
    # What was decided before stays what it was.
    assert load_perceptual_distance("untrained", "cpu", url).name == "lpips_untrained"


def test_one_process_tries_the_download_once(backbone, checkpoints, site):
    address, requests = site
    for _ in range(3):
        load_perceptual_distance("auto", "cpu", f"{address}/alexnet-34567890.pth")
    assert requests == ["HEAD 404"]


def test_a_host_that_never_answers_costs_a_few_seconds(checkpoints):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        distance = load_perceptual_distance("auto", "cpu", f"{address}/alexnet-45678901.pth")
    assert distance.name == "lpips_untrained"
    assert time.monotonic() - began < 8


def test_the_untrained_backbone_is_asked_for_without_a_look_at_the_network(checkpoints, caplog):
    distance = load_perceptual_distance("untrained", "cpu", "http://nowhere.invalid/alexnet-56789012.pth")
    assert distance.name == "lpips_untrained"
    assert caplog.text == ""


def test_the_untrained_distance_does_not_depend_on_the_random_state(frames):
    first = load_perceptual_distance("untrained", "cpu")
    torch.manual_seed(99)
    second = load_perceptual_distance("untrained", "cpu")
    assert torch.equal(first(*frames), second(*frames))


def test_the_untrained_weights_are_those_of_the_first_release():
    state = load_perceptual_distance("untrained", "cpu").model.net.state_dict()
    # RandomState(0) begins with 1.76405235; He-normal over 3 x 11 x 11 inputs.
    assert state["slice1.0.weight"].flatten()[0].item() == pytest.approx(1.76405235 * (2 / 363) ** 0.5)
    assert not any(value.any() for name, value in state.items() if name.endswith("bias"))


@pytest.mark.parametrize("mode", ["untrained", "required"])
def test_loading_leaves_the_random_state_and_default_timeout_alone(mode, backbone, checkpoints):
    (checkpoints / backbone.name).write_bytes(backbone.read_bytes())
    before = torch.random.get_rng_state()
    load_perceptual_distance(mode, "cpu", f"{UNREACHABLE}/{backbone.name}")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert socket.getdefaulttimeout() is None
