"""Accuracy of the accelerated full-size model: its errors against float32, beside those of plain bfloat16.

The reference is the same model, with its weights rounded to bfloat16, computed in float32, so every
difference comes from the arithmetic. It comes first, since both do not fit on a GPU of 80 GB. Run from the
repository root:

    python benchmarks/precision.py
    python benchmarks/precision.py --tiny                          # smoke test of this script
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from random_model import backbone_of, build_transformer, random_conditioning, transformer_inputs
from torch import Tensor

from lora_tta.adaptation.methods import MethodSlot
from lora_tta.adaptation.objective import AdaptationLoss
from lora_tta.config import load_params
from lora_tta.models import OpenSoraTransformer3DModel
from lora_tta.models.lora_targets import adapter_layers
from lora_tta.models.speed.acceleration import accelerate

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


@dataclass(frozen=True)
class Exact:
    """What float32 arithmetic gives for an adapter.

    Attributes:
        velocity: the prediction.
        gradient: of all adapter weights at one step, flat.
        left_by_merging: how much of the adapter's effect survives that the sum with a weight is rounded to
            bfloat16, with nothing but that rounding counted.
    """

    velocity: Tensor
    gradient: Tensor
    left_by_merging: float


def build(tiny: bool, device: torch.device) -> OpenSoraTransformer3DModel:
    """The model in bfloat16."""
    model = build_transformer(tiny, device, torch.bfloat16)
    # PyTorch's default initialisation shrinks its input by 3 ** 0.5 in every layer; a trained model doesn't.
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data *= 3**0.5
    return model


@torch.no_grad()
def put_in_adapter(methods: MethodSlot, model: OpenSoraTransformer3DModel, spread: float, seed: int) -> None:
    """An adapter whose B is normal with standard deviation `spread`; its weights are those of bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    for weight in methods.put(load_params().adaptation.at({"rank": RANK}).method).attach(seed):
        weight.copy_(weight.bfloat16())
    for layer in adapter_layers(model):
        (weight,) = layer.lora_B.parameters()
        weight.copy_((spread * torch.randn(weight.shape, generator=generator)).bfloat16())


@contextmanager
def merged_adapter(transformer: OpenSoraTransformer3DModel) -> Iterator[None]:
    """Add the adapter to the weights, in bfloat16, for a while; afterwards they are bit for bit as before."""
    layers, dtype = adapter_layers(transformer), transformer.dtype
    originals = [layer.get_base_layer().weight.to(torch.bfloat16, copy=True) for layer in layers]
    try:
        for layer in layers:
            layer.to(torch.bfloat16).merge()
            layer.to(dtype)
        yield
    finally:
        for layer, original in zip(layers, originals, strict=True):
            layer.get_base_layer().weight.detach().copy_(original)
            layer.merged_adapters.clear()


def lora_gradient(model: OpenSoraTransformer3DModel, loss: AdaptationLoss) -> Tensor:
    """The gradient of all adapter weights at one step, flat."""
    adapters = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(loss.at(0), adapters)
    return torch.cat([gradient.float().flatten() for gradient in gradients])


@torch.no_grad()
def velocity(model: OpenSoraTransformer3DModel, inputs: dict[str, Tensor]) -> Tensor:
    """The prediction in the model's dtype, as float32."""
    inputs = {
        name: value.to(model.dtype) if value.dtype == torch.bfloat16 else value
        for name, value in inputs.items()
    }
    return model(**inputs).sample.float()


def compute_exactly(
    methods: MethodSlot, model: OpenSoraTransformer3DModel, inputs: dict[str, Tensor], loss: AdaptationLoss
) -> dict[float, Exact]:
    """The reference for each spread, by a model in float32."""
    model.enable_gradient_checkpointing()
    base = velocity(model, inputs)
    references = {}
    for spread in SPREADS:
        put_in_adapter(methods, model, spread, seed=1)
        exact = velocity(model, inputs)
        gradient = lora_gradient(model, loss)
        with merged_adapter(model):
            left = projection(velocity(model, inputs) - base, exact - base)
        references[spread] = Exact(exact, gradient, left)
    methods.clear()
    model.disable_gradient_checkpointing()
    return references


def main() -> None:
    """Measure and print one line for each way of computing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to test this script")
    tiny = parser.parse_args().tiny
    device = torch.device("cpu" if tiny else "cuda")
    torch.manual_seed(0)
    model = build(tiny, device)
    backbone = backbone_of(model)
    methods = MethodSlot(backbone)
    height, width, text_length = (32, 48, 16) if tiny else (192, 336, 512)
    latents = torch.randn(1, model.config.in_channels // 4, 17, height // 8, width // 8, device=device)
    inputs = transformer_inputs(model, latents, text_length)
    conditioning = random_conditioning(model, height, width, text_length, device)
    loss, exact_loss = (
        AdaptationLoss(backbone, conditioning.to(device, dtype), load_params().adaptation, seed=0)
        for dtype in (torch.bfloat16, torch.float32)
    )
    references = compute_exactly(methods, model.float(), inputs, exact_loss)
    model.bfloat16()

    print(f"{'CPU' if tiny else torch.cuda.get_device_name()}, torch {torch.__version__}; relative errors")
    print(f"{'':<20}{'spread of B':>16}{'velocity':>12}{'merged':>12}{'gradient':>12}{'effect left':>16}")
    for version in ("plain", "accelerated"):
        if version == "accelerated":
            if tiny:
                continue
            methods.clear()
            accelerate(model)
        for spread, exact in references.items():
            put_in_adapter(methods, model, spread, seed=1)
            unmerged_error = relative_error(velocity(model, inputs), exact.velocity)
            with merged_adapter(model):
                merged_error = relative_error(velocity(model, inputs), exact.velocity)
            gradient_error = relative_error(lora_gradient(model, loss), exact.gradient)
            errors = f"{unmerged_error:>12.3e}{merged_error:>12.3e}{gradient_error:>12.3e}"
            print(f"{version:<20}{spread:>16.0e}{errors}{exact.left_by_merging:>16.3f}", flush=True)


if __name__ == "__main__":
    main()
