"""Accuracy of the accelerated full-size model: its errors against float32, beside those of plain bfloat16.

The reference holds the same weights, rounded to bfloat16, in float32, so every difference comes from the
arithmetic. Needs a GPU of 100 GB. Run from the repository root:

    python benchmarks/precision.py
    python benchmarks/precision.py --tiny                          # smoke test of this script
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from random_model import (
    TINY_TRANSFORMER,
    build_model,
    random_conditioning,
    transformer_inputs,
)
from torch import Tensor, nn

from lora_tta.adaptation.lora import fresh_adapter, remove_adapter
from lora_tta.adaptation.objective import FlowMatchingObjective
from lora_tta.config import load_params
from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.acceleration import accelerate
from lora_tta.models.lora_targets import adapter_layers

RANK = 16
# Standard deviations of the adapter's B, which is zero at first: about 7e-4 after 20 steps at 1e-4, see
# docs/performance.md.
SPREADS = (2e-4, 5e-4, 2e-3)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """||value - reference|| / ||reference||."""
    return ((value.float() - reference).norm() / reference.norm()).item()


def projection(value: Tensor, reference: Tensor) -> float:
    """How much of the reference is in the value: 1 if all, 0 if nothing."""
    return (value.flatten() @ reference.flatten() / reference.square().sum()).item()


def build_pair(sizes: dict, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """The model in bfloat16 and its reference in float32."""
    model = build_model(OpenSoraTransformer3DModel, sizes, device, torch.bfloat16)
    # PyTorch's default initialisation shrinks its input by 3 ** 0.5 in every layer; a trained model doesn't.
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data *= 3**0.5
    reference = build_model(OpenSoraTransformer3DModel, sizes, device, torch.float32)
    reference.load_state_dict(model.state_dict())
    return model, reference


def put_in_same_adapter(models: tuple[nn.Module, nn.Module], spread: float, seed: int) -> None:
    """An adapter whose B is normal with standard deviation `spread`, the same in both models."""
    params = load_params().adaptation
    generator = torch.Generator().manual_seed(seed)
    for model in models:
        fresh_adapter(model, RANK, params, seed)
    with torch.no_grad():
        for layer, reference in zip(*map(adapter_layers, models), strict=True):
            for part in ("lora_A", "lora_B"):
                (weight,) = getattr(layer, part).parameters()
                if part == "lora_B":
                    weight.copy_(spread * torch.randn(weight.shape, generator=generator))
                (other,) = getattr(reference, part).parameters()
                other.copy_(weight)


@contextmanager
def merged_adapter(transformer: OpenSoraTransformer3DModel) -> Iterator[None]:
    """Add the adapter to the weights for a while; afterwards they are bit for bit what they were."""
    layers = adapter_layers(transformer)
    weights = [layer.get_base_layer().weight.detach() for layer in layers]
    originals = [weight.clone() for weight in weights]
    try:
        for layer in layers:
            layer.merge()
        yield
    finally:
        for layer, weight, original in zip(layers, weights, originals, strict=True):
            weight.copy_(original)
            layer.merged_adapters.clear()


def lora_gradient(model: nn.Module, objective: FlowMatchingObjective) -> Tensor:
    """The gradient of all adapter weights at one step, flat."""
    adapters = [weight for weight in model.parameters() if weight.requires_grad]
    model.train()
    gradients = torch.autograd.grad(objective.loss(model, step=0), adapters)
    model.eval()
    return torch.cat([gradient.float().flatten() for gradient in gradients])


@torch.no_grad()
def velocity(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The prediction in the model's dtype, as float32."""
    inputs = {
        name: value.to(model.dtype) if value.dtype == torch.bfloat16 else value
        for name, value in inputs.items()
    }
    return model(**inputs).sample.float()


@torch.no_grad()
def share_left_by_merging(
    models: tuple[nn.Module, nn.Module], inputs: dict[str, Tensor], base: Tensor, exact: Tensor
) -> float:
    """How much of the adapter's effect survives that the sum with a weight is rounded to bfloat16.

    In float32 arithmetic, so that nothing but that rounding counts.
    """
    model, reference = models
    weights = [layer.get_base_layer().weight for layer in adapter_layers(reference)]
    originals = [weight.clone() for weight in weights]
    with merged_adapter(model):
        for weight, layer in zip(weights, adapter_layers(model), strict=True):
            weight.copy_(layer.get_base_layer().weight)
    reference.disable_adapters()
    effect = projection(velocity(reference, inputs) - base, exact - base)
    reference.enable_adapters()
    for weight, original in zip(weights, originals, strict=True):
        weight.copy_(original)
    return effect


def main() -> None:
    """Measure and print one line for each way of computing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to test this script")
    tiny = parser.parse_args().tiny
    device = torch.device("cpu" if tiny else "cuda")
    torch.manual_seed(0)
    model, reference = models = build_pair(TINY_TRANSFORMER if tiny else {}, device)
    height, width, text_length = (32, 48, 16) if tiny else (192, 336, 512)
    latents = torch.randn(1, 16, 17, height // 8, width // 8, device=device)
    inputs = transformer_inputs(model, latents, text_length)
    conditioning = random_conditioning(model, height, width, text_length, device)
    objective, exact_objective = (
        FlowMatchingObjective(conditioning.to(device, dtype), load_params().adaptation, seed=0)
        for dtype in (torch.bfloat16, torch.float32)
    )
    base = velocity(reference, inputs)

    print(f"{'CPU' if tiny else torch.cuda.get_device_name()}, torch {torch.__version__}; relative errors")
    print(f"{'':<20}{'spread of B':>16}{'velocity':>12}{'merged':>12}{'gradient':>12}{'effect left':>16}")
    for version in ("plain", "accelerated"):
        if version == "accelerated":
            if tiny:
                continue
            remove_adapter(model)
            accelerate(model)
        for spread in SPREADS:
            put_in_same_adapter(models, spread, seed=1)
            exact = velocity(reference, inputs)
            unmerged_error = relative_error(velocity(model, inputs), exact)
            with merged_adapter(model):
                merged_error = relative_error(velocity(model, inputs), exact)
            gradients = lora_gradient(model, objective), lora_gradient(reference, exact_objective)
            left = share_left_by_merging(models, inputs, base, exact)
            errors = f"{unmerged_error:>12.3e}{merged_error:>12.3e}{relative_error(*gradients):>12.3e}"
            print(f"{version:<20}{spread:>16.0e}{errors}{left:>16.3f}", flush=True)


if __name__ == "__main__":
    main()
