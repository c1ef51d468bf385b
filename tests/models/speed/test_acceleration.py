"""Compiled blocks and CUDA graphs: nothing is compiled or captured twice, and results stay what they were."""

import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest
import torch
from lora_adapters import PARAMS, lora, slot
from tiny_model import TEXT_WIDTH, tiny_transformer
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lora_tta.config import load_params
from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.lora_targets import adapter_layers
from lora_tta.models.speed import acceleration, first_use
from lora_tta.models.speed.acceleration import (
    GraphedForward,
    accelerate,
    compile_blocks,
    find_kernels,
    has_hopper_kernels,
    mark_rank_dynamic,
)

NUM_TOKENS, TEXT_LENGTH = 24, 8


def build_transformer(device: str = "cpu") -> OpenSoraTransformer3DModel:
    """With two blocks of each kind: the first double-stream and the last single-stream one are special."""
    return tiny_transformer(num_layers=2, num_single_layers=2).requires_grad_(False).to(device)


def random_inputs(batch: int, device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    return {
        "hidden_states": normal(batch, NUM_TOKENS, 64),
        "img_ids": torch.arange(NUM_TOKENS * 3, device=device).reshape(NUM_TOKENS, 3) % 5,
        "encoder_hidden_states": normal(batch, TEXT_LENGTH, TEXT_WIDTH),
        "txt_ids": torch.zeros(TEXT_LENGTH, 3, device=device),
        "timestep": torch.full((batch,), 0.3, device=device),
        "pooled_projections": normal(batch, TEXT_WIDTH),
        "condition": normal(batch, NUM_TOKENS, 68),
    }


@pytest.mark.usefixtures("_fresh_compiler")
def test_blocks_compiled_once_serve_every_layer_reset_and_rank():
    counter = CompileCounterWithBackend("aot_eager")
    transformer = build_transformer()
    transformer.fuse_projections()
    compile_blocks(transformer, backend=counter)
    for rank, seed in [(4, 0), (4, 1), (8, 0), (16, 0)]:
        lora(transformer, rank).attach(seed)
        mark_rank_dynamic(transformer)
        for step in range(2):
            transformer(**random_inputs(1, seed=step)).sample.square().mean().backward()
    first_and_other_double_blocks, last_and_other_single_blocks = 2, 2
    assert counter.frame_count == first_and_other_double_blocks + last_and_other_single_blocks


@pytest.mark.usefixtures("_fresh_compiler")
@torch.no_grad()
def test_more_versions_of_a_block_than_the_compiler_makes_by_default_are_no_error():
    by_default = torch._dynamo.config.recompile_limit
    transformer = build_transformer()
    counter = CompileCounterWithBackend("eager")
    compile_blocks(transformer, backend=counter)
    # Of a single-stream block, each size makes two: the last one's, and the others'.
    num_sizes = by_default // 2 + 1
    for num_tokens in range(2, num_sizes + 2):
        inputs = random_inputs(1)
        for name, axis in (("hidden_states", 1), ("condition", 1), ("img_ids", 0)):
            inputs[name] = inputs[name].narrow(axis, 0, num_tokens)
        transformer(**inputs)
    assert counter.frame_count == 3 * num_sizes


@pytest.mark.parametrize("module", ["flash_attn.cute", "quack.epilogue"])
def test_without_an_optional_package_its_kernels_are_not_asked_for(module):
    if find_spec(module.partition(".")[0]) is not None:
        pytest.skip("the package is installed")
    assert not has_hopper_kernels(module)


BROKEN = "raise OSError('libcutlass.so:\\ncannot open shared object file')"
HOPPER, BLACKWELL = 9, 10
FLASH_ATTENTION, QUACK = "flash_attn.cute", "quack.epilogue"


@pytest.fixture
def gpu_of(monkeypatch):
    """A GPU of a generation."""
    # What FlashAttention reads is put back.
    monkeypatch.setenv("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")

    def build(generation: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (generation, 0))

    return build


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Installs packages with these files, for the test alone."""
    of_packages = ("flash_attn", "quack", "lora_tta.models.speed.flash", "lora_tta.models.speed.mlp")

    def forget() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.startswith(of_packages)]
        return {name: sys.modules.pop(name) for name in names}

    def build(*empty: str, **files: str) -> None:
        for name, text in (dict.fromkeys(empty, "") | files).items():
            file = tmp_path / f"{name.replace('.', '/')}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    before = forget()
    yield build
    forget()
    sys.modules.update(before)


# Ways in which an installed package can be broken.
BROKEN_PACKAGES = {
    "flash_attn": {"flash_attn.__init__": BROKEN, "flash_attn.cute.__init__": ""},
    "flash_attn.cute": {"flash_attn.__init__": "", "flash_attn.cute.__init__": BROKEN},
    "flash_attn.cute.interface": {
        "flash_attn.__init__": "",
        "flash_attn.cute.__init__": "",
        "flash_attn.cute.interface": BROKEN,
    },
    "quack": {"quack.__init__": BROKEN, "quack.epilogue": ""},
    "quack.activation": {"quack.__init__": "", "quack.epilogue": "", "quack.activation": BROKEN},
    "a release without a name": {"quack.__init__": "", "quack.epilogue": "", "quack.activation": ""},
}


@pytest.mark.parametrize("files", BROKEN_PACKAGES.values(), ids=BROKEN_PACKAGES)
def test_a_broken_package_is_one_line_and_the_other_kernels_are_used(install, gpu_of, caplog, files):
    pytest.importorskip("triton")
    install(**files)
    gpu_of(HOPPER)
    found = find_kernels()
    assert callable(found["qkv_heads"])
    package = next(iter(files)).partition(".")[0]
    assert {"flash_attn": "attention", "quack": "mlp"}[package] not in found
    (line,) = [message for message in caplog.messages if package in message]
    assert f"{package} is installed but cannot be used" in line
    assert "PyTorch's own kernels" in line
    assert "\n" not in line


@pytest.mark.parametrize("files", BROKEN_PACKAGES.values(), ids=BROKEN_PACKAGES)
def test_a_package_that_is_broken_counts_as_there_and_raises_nothing(install, gpu_of, files):
    install(**files)
    gpu_of(HOPPER)
    assert has_hopper_kernels(QUACK if "quack.__init__" in files else FLASH_ATTENTION)


@pytest.mark.parametrize("module", [FLASH_ATTENTION, QUACK])
def test_a_package_of_the_name_that_has_other_modules_is_another_one(install, gpu_of, module):
    install(f"{module.partition('.')[0]}.__init__")
    gpu_of(HOPPER)
    assert not has_hopper_kernels(module)


@pytest.mark.parametrize("module", [FLASH_ATTENTION, QUACK])
def test_on_another_gpu_a_package_is_not_even_imported(install, gpu_of, module, caplog):
    package = module.partition(".")[0]
    install(**{f"{package}.__init__": BROKEN})
    gpu_of(BLACKWELL)
    assert not has_hopper_kernels(module)
    assert package not in sys.modules
    assert not caplog.messages


def test_on_the_cpu_calls_go_to_the_module():
    transformer = build_transformer()
    expected = transformer(**random_inputs(2)).sample
    transformer.forward = GraphedForward(transformer)
    assert torch.equal(transformer(**random_inputs(2)).sample, expected)
    assert torch.equal(transformer(**random_inputs(2), return_dict=False)[0], expected)


def test_graphs_make_room_for_one_that_does_not_fit_beside_them(monkeypatch):
    transformer = build_transformer()
    forward = transformer.forward = GraphedForward(transformer)
    held_at_capture = []

    def capture(call, inputs):
        held_at_capture.append(len(forward.replays))
        if forward.replays:
            raise torch.OutOfMemoryError
        return call

    monkeypatch.setattr(GraphedForward, "_can_replay", lambda self, inputs: True)
    monkeypatch.setattr(acceleration, "_capture", capture)
    for batch in (1, 1, 3):
        assert transformer(**random_inputs(batch)).sample.shape == (batch, NUM_TOKENS, 64)
    assert held_at_capture == [0, 1, 0]
    assert len(forward.replays) == 1


def test_without_graphs_to_give_up_a_lack_of_memory_is_reported():
    forward = GraphedForward(build_transformer())
    attempts = []

    def work():
        attempts.append(len(attempts))
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        forward.with_room(work)
    assert len(attempts) == 1


@pytest.fixture
def clock(monkeypatch):
    """The clock of first uses, which stands still unless a test sets it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(first_use, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_the_seconds_of_captures_count_as_first_uses(clock, monkeypatch):
    transformer = build_transformer()
    forward = transformer.forward = GraphedForward(transformer)

    def capture(call, inputs):
        clock.now += 5
        return call

    monkeypatch.setattr(GraphedForward, "_can_replay", lambda self, inputs: True)
    monkeypatch.setattr(acceleration, "_capture", capture)
    for batch, seconds in [(1, 5), (1, 5), (3, 10), (1, 10)]:
        transformer(**random_inputs(batch))
        assert forward.first_uses.seconds == seconds


class OnGpu(Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


@pytest.fixture
def without_graphs(monkeypatch, clock):
    """A transformer whose calls are too large for graphs, and the calls of its module, a second each."""
    transformer = build_transformer()
    forward = transformer.forward = GraphedForward(transformer, max_tokens=0)
    plain, calls = forward._forward, []

    def counting(transformer, hidden_states, **others):
        calls.append(len(hidden_states))
        clock.now += 1
        return plain(transformer, hidden_states=hidden_states.as_subclass(Tensor), **others)

    monkeypatch.setattr(forward, "_forward", counting)
    return transformer, calls


def on_gpu(batch: int) -> dict[str, Tensor]:
    inputs = random_inputs(batch)
    return inputs | {"hidden_states": inputs["hidden_states"].as_subclass(OnGpu)}


@torch.no_grad()
def test_a_new_kind_of_call_runs_once_for_nothing_beforehand(without_graphs):
    transformer, calls = without_graphs
    seconds = []
    for batch in (1, 1, 3, 1, 3):
        transformer(**on_gpu(batch))
        seconds.append(transformer.forward.first_uses.seconds)
    assert calls == [1, 1, 1, 3, 3, 1, 3]
    assert seconds == [1, 1, 2, 2, 2]


def test_a_call_with_gradients_is_another_kind_and_its_first_leaves_no_gradients(without_graphs):
    transformer, calls = without_graphs
    weights = put_in_trained_adapter(transformer, rank=4)
    with torch.no_grad():
        expected = transformer(**on_gpu(1)).sample
    assert len(calls) == 2
    sample = transformer(**on_gpu(1)).sample
    assert len(calls) == 4
    torch.testing.assert_close(sample, expected)
    assert all(weight.grad is None for weight in weights)
    sample.square().mean().backward()
    assert all(weight.grad is not None for weight in weights)


def test_on_the_cpu_no_call_runs_twice(without_graphs):
    transformer, calls = without_graphs
    transformer(**random_inputs(1))
    assert calls == [1]
    assert transformer.forward.first_uses.seconds == 0


def test_work_of_a_new_kind_is_done_once_beforehand_and_this_counts_as_first_use(clock):
    forward = GraphedForward(build_transformer())
    done = []

    def work():
        done.append(len(done))
        clock.now += 2
        return len(done)

    assert forward.with_room(work, first_use_of="decoding 4 x 6") == 2
    assert forward.with_room(work, first_use_of="decoding 4 x 6") == 3
    assert forward.with_room(work) == 4
    assert forward.first_uses.seconds == 2


@pytest.mark.gpu
@pytest.mark.usefixtures("_fresh_compiler")
def test_the_accelerated_model_predicts_and_learns_like_the_plain_one():
    plain, accelerated = build_transformer("cuda"), build_transformer("cuda")
    accelerate(accelerated)
    for rank in (4, 8):
        adapters = [put_in_trained_adapter(model, rank) for model in (plain, accelerated)]
        for batch in (1, 3):
            inputs = random_inputs(batch, "cuda")
            with torch.no_grad():
                torch.testing.assert_close(
                    accelerated(**inputs).sample, plain(**inputs).sample, atol=1e-4, rtol=1e-4
                )
        gradients = [
            torch.autograd.grad(model(**random_inputs(1, "cuda")).sample.square().mean(), weights)
            for model, weights in zip((plain, accelerated), adapters, strict=True)
        ]
        torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"last_blocks": 1},
        {"pattern": "to_q$"},
        {"name": "offset", "groups": 1},
        {"name": "offset", "groups": 3},
    ],
    ids=str,
)
def test_every_method_that_can_be_accelerated_learns_like_on_the_plain_model(changes):
    plain, accelerated = build_transformer("cuda"), build_transformer("cuda")
    accelerate(accelerated)
    before = load_params(PARAMS).adaptation
    method = changes if "name" in changes else before.method.model_dump() | {"rank": 4} | changes
    settings = type(before).model_validate(before.model_dump() | {"method": method}).method
    held = [slot(model).put(settings) for model in (plain, accelerated)]
    weights = [one.attach(seed=0) for one in held]
    inputs = random_inputs(1, "cuda")
    for _ in range(2):
        for model, trained in zip((plain, accelerated), weights, strict=True):
            model(**inputs).sample.square().mean().backward()
            assert all(weight.grad is not None for weight in trained)
            with torch.no_grad():
                for weight in trained:
                    weight -= 0.1 * weight.grad
                    weight.grad = None
        torch.testing.assert_close(*weights, atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        outputs = [model(**inputs).sample for model in (plain, accelerated)]
        torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
        for one in held:
            one.detach()
        outputs = [model(**inputs).sample for model in (plain, accelerated)]
        torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)


def put_in_trained_adapter(
    model: OpenSoraTransformer3DModel, rank: int, seed: int = 0
) -> list[torch.nn.Parameter]:
    """An adapter that changes the output, the same for the same seed."""
    weights = lora(model, rank).attach(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            weight.add_(torch.randn(weight.shape, generator=generator).to(weight.device) / 10)
    return weights


@pytest.fixture
def pair() -> tuple[OpenSoraTransformer3DModel, OpenSoraTransformer3DModel, GraphedForward]:
    """A plain transformer, one of the same weights with graphs, and its graphs."""
    plain, graphed = build_transformer("cuda"), build_transformer("cuda")
    graphed.forward = GraphedForward(graphed)
    return plain, graphed, graphed.forward


@pytest.mark.gpu
def test_replays_give_the_velocity_of_each_input(pair):
    plain, graphed, forward = pair
    with torch.no_grad():
        for batch, seed in [(3, 0), (1, 1), (3, 2), (1, 3)]:
            inputs = random_inputs(batch, "cuda", seed)
            torch.testing.assert_close(graphed(**inputs).sample, plain(**inputs).sample)
    assert len(forward.replays) == 2


@pytest.mark.gpu
def test_replays_give_the_gradients_of_a_reset_adapter(pair):
    plain, graphed, forward = pair
    for rank, seed, captured in [(4, 0, 1), (4, 1, 1), (8, 2, 1)]:
        adapters = [put_in_trained_adapter(model, rank, seed) for model in (plain, graphed)]
        inputs = random_inputs(1, "cuda", seed)
        for model in (plain, graphed):
            model(**inputs).sample.square().mean().backward()
        for expected, weight in zip(*adapters, strict=True):
            torch.testing.assert_close(weight.grad, expected.grad)
            weight.grad = expected.grad = None
        assert len(forward.replays) == captured


@pytest.mark.gpu
def test_adapters_put_in_taken_out_and_merged_are_noticed(pair):
    plain, graphed, _ = pair
    inputs = random_inputs(1, "cuda")

    def put_in_adapter(model: OpenSoraTransformer3DModel) -> None:
        for weight in lora(model, 4).attach(seed=0):
            weight.fill_(0.05)

    with torch.no_grad():
        without = graphed(**inputs).sample
        for model in (plain, graphed):
            put_in_adapter(model)
        adapted = graphed(**inputs).sample
        assert not torch.allclose(adapted, without, atol=1e-3)
        torch.testing.assert_close(adapted, plain(**inputs).sample)
        lora(graphed, 4).detach()
        torch.testing.assert_close(graphed(**inputs).sample, without)
        put_in_adapter(graphed)
        for layer in adapter_layers(graphed):
            layer.merge()
        torch.testing.assert_close(graphed(**inputs).sample, adapted, atol=1e-4, rtol=1e-4)
