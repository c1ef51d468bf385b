"""A fast transformer on a GPU: blocks compiled once, whole calls replayed as CUDA graphs.

Compilation is regional: one double-stream and one single-stream block stand for nearly all. The rank of an
adapter is a variable of the compiled code, and the weights are its arguments, so neither a reset adapter, nor
another clip, rank or number of steps compiles anything again.
"""

import logging
import os
from collections.abc import Callable, Hashable
from importlib.util import find_spec
from itertools import zip_longest
from typing import TypeVar

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from peft import PeftConfig
from torch import Tensor, nn

from lora_tta.errors import reason_of
from lora_tta.models.lora_targets import adapter_layers
from lora_tta.models.speed.first_use import FirstUses
from lora_tta.models.transformer import OpenSoraTransformer3DModel

# Above this many tokens a call takes so long that its launches hide behind it, and the memory that a graph
# holds on to is worth more than the time it saves.
MAX_GRAPH_TOKENS = 16_384
MAX_COMPILED_VERSIONS = 160
HOPPER = 9
logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def accelerate(transformer: OpenSoraTransformer3DModel, kernels: dict[str, Callable] | None = None) -> None:
    """Make a transformer on a GPU faster; its weights must stay on their device and in their dtype then.

    Args:
        transformer: on a GPU.
        kernels: of :func:`find_kernels`, which is called if they are None.
    """
    from lora_tta.models.speed.inductor_rows import keep_rows_in_registers

    kernels = find_kernels() if kernels is None else dict(kernels)
    if transformer.config.attention_head_dim.bit_count() != 1:
        kernels.pop("qkv_heads")  # takes powers of 2
    transformer.fuse_projections()
    transformer.compute_by(**kernels)
    keep_rows_in_registers()
    compile_blocks(transformer)
    transformer.forward = GraphedForward(transformer)


def find_kernels() -> dict[str, Callable]:
    """The kernels for this GPU, as arguments of ``OpenSoraTransformer3DModel.compute_by``.

    A package that is installed and can't be imported is left out, and a warning says so.
    """
    # FlashAttention reads this when it is imported, and then keeps what it compiles on the disk, as PyTorch
    # and QuACK do by themselves. Otherwise every process compiles it again.
    os.environ.setdefault("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", "1")
    # Triton comes with PyTorch for CUDA only.
    from lora_tta.models.speed.qkv_kernel import qkv_heads

    kernels: dict[str, Callable] = {"qkv_heads": qkv_heads}
    # By the argument of `compute_by`: the module of an optional package, and what imports our use of it.
    optional = {"attention": ("flash_attn.cute", _flash_attention), "mlp": ("quack.epilogue", _gelu_mlp)}
    for role, (package, kernel) in optional.items():
        if has_hopper_kernels(package):
            try:
                kernels[role] = kernel()
            except Exception as error:  # whatever a broken installation raises
                logger.warning(
                    "%s is installed but cannot be used (%s): PyTorch's own kernels take its place",
                    package.partition(".")[0],
                    reason_of(error),
                )
    return kernels


def _flash_attention() -> Callable:
    from lora_tta.models.speed.flash_attention import flash_attention

    return flash_attention


def _gelu_mlp() -> Callable:
    from lora_tta.models.speed.mlp_kernel import gelu_mlp

    return gelu_mlp


def has_hopper_kernels(module: str) -> bool:
    """Whether the GPU is a Hopper one and an optional package with kernels for it is installed.

    Args:
        module: of the package, one that other packages of its name and its own older releases don't have.
    """
    package = module.partition(".")[0]
    if find_spec(package) is None or not torch.cuda.is_available():
        return False
    if torch.cuda.get_device_capability()[0] != HOPPER:
        return False
    try:
        return find_spec(module) is not None  # imports the package
    except Exception:
        return True


def compile_blocks(
    transformer: OpenSoraTransformer3DModel, backend: str | Callable[..., object] = "inductor"
) -> None:
    """Compile the two kinds of blocks, each as one graph, when they first run.

    The last block, which leaves out the text, is compiled apart, and so is the first in training, whose
    input needs no gradient. Sets options of the compiler for the process: sizes are constants, except those
    that :func:`mark_rank_dynamic` marks.
    """
    torch._dynamo.config.automatic_dynamic_shapes = False
    torch._dynamo.config.force_parameter_static_shapes = False
    torch._dynamo.config.force_nn_module_property_static_shapes = False
    # By default 8, and one size of video takes 10: with or without adapter, guidance, gradients, and text.
    torch._dynamo.config.recompile_limit = MAX_COMPILED_VERSIONS
    transformer.compile_repeated_blocks(fullgraph=True, backend=backend)


def mark_rank_dynamic(transformer: OpenSoraTransformer3DModel) -> None:
    """Tell the compiler that the rank of the transformer's adapters varies."""
    for layer in adapter_layers(transformer):
        for down, up in zip(layer.lora_A.values(), layer.lora_B.values(), strict=True):
            torch._dynamo.mark_dynamic(down.weight, 0)
            torch._dynamo.mark_dynamic(up.weight, 1)


class GraphedForward:
    """A transformer's forward pass, and backward pass where there is one, as CUDA graphs.

    A graph is captured at the first call with new input shapes or another state of the model (adapter put
    in, merged or taken out), and replayed in all others. Calls that can't be replayed go to the module's own
    forward pass: those on the CPU, with more than ``max_tokens`` tokens, or with recomputation. On a GPU the
    first of them runs twice, so that the second takes the time that all later ones take.

    Attributes:
        first_uses: the seconds of captures and of those first calls.
    """

    def __init__(self, transformer: OpenSoraTransformer3DModel, max_tokens: int = MAX_GRAPH_TOKENS) -> None:
        self._transformer = transformer
        self._max_tokens = max_tokens
        self._forward = type(transformer).forward
        self.replays: dict[tuple, Callable[..., Tensor]] = {}
        self.first_uses = FirstUses()
        self._look_at_structure()

    def __call__(
        self, *, return_dict: bool = True, **inputs: Tensor | None
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """See ``OpenSoraTransformer3DModel.forward``."""
        if any(held is not now for held, now in zip_longest(self._adapters, _adapters(self._transformer))):
            self._look_at_structure()
        given = {name: value for name, value in inputs.items() if value is not None}
        if not self._can_replay(given):
            self._warm_up(given)
            return self._forward(self._transformer, return_dict=return_dict, **inputs)
        sample = self._replay(given)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def with_room(self, work: Callable[[], Result], first_use_of: Hashable | None = None) -> Result:
        """The result of work on the GPU, tried once more without the graphs where they leave no room.

        Args:
            work: to be called.
            first_use_of: work of a kind that is new is done once beforehand, for nothing.
        """
        if first_use_of is not None and self.first_uses.is_new(first_use_of):
            with self.first_uses.counted():
                self.with_room(work)
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self.replays:
                raise
        # Not in the handler: the exception keeps alive what the failed attempt had allocated.
        self.replays.clear()
        torch.cuda.empty_cache()
        return work()

    def _look_at_structure(self) -> None:
        """Walk through the modules, which is slow, once for every adapter that is put in or taken out."""
        mark_rank_dynamic(self._transformer)
        self._adapters = _adapters(self._transformer)
        self._parameters = list(self._transformer.parameters())
        self._adapter_layers = adapter_layers(self._transformer)

    def _can_replay(self, inputs: dict[str, Tensor]) -> bool:
        tokens, text = inputs["hidden_states"], inputs["encoder_hidden_states"]
        return (
            tokens.is_cuda
            and len(tokens) * (tokens.shape[1] + text.shape[1]) <= self._max_tokens
            and not (torch.is_grad_enabled() and self._transformer.gradient_checkpointing)
        )

    def _replay(self, inputs: dict[str, Tensor]) -> Tensor:
        weights = tuple((parameter.data_ptr(), parameter.shape) for parameter in self._parameters)
        key = (
            weights,
            self._mode(),
            _shapes(inputs),
        )
        if key not in self.replays:
            # Graphs of other weights would read memory that is no longer theirs.
            self.replays = {held: replay for held, replay in self.replays.items() if held[0] == weights}
            call = _Call(self._transformer, self._forward, tuple(inputs)).train(self._transformer.training)
            with self.first_uses.counted():
                self.replays[key] = self.with_room(lambda: _capture(call, inputs))
        return self.replays[key](*inputs.values())

    def _warm_up(self, inputs: dict[str, Tensor]) -> None:
        """Run a new kind of call once for nothing, there and back."""
        if not inputs["hidden_states"].is_cuda or not self.first_uses.is_new((self._mode(), _shapes(inputs))):
            return
        with self.first_uses.counted():
            sample = self._forward(self._transformer, return_dict=False, **inputs)[0]
            trained = [parameter for parameter in self._parameters if parameter.requires_grad]
            if torch.is_grad_enabled() and trained:
                torch.autograd.grad(sample.sum(), trained, allow_unused=True)

    def _mode(self) -> tuple:
        return (
            torch.is_grad_enabled(),
            self._transformer.training,
            self._transformer.gradient_checkpointing,
            tuple(parameter.requires_grad for parameter in self._parameters),
            tuple(layer.merged for layer in self._adapter_layers),
        )


class _Call(nn.Module):
    """A transformer as a module of positional arguments, which is what can be captured."""

    def __init__(
        self, transformer: OpenSoraTransformer3DModel, forward: Callable[..., tuple[Tensor]], names: tuple
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self._forward = forward
        self._names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self._names, inputs, strict=True))
        return self._forward(self.transformer, return_dict=False, **named)[0]


def _capture(call: nn.Module, inputs: dict[str, Tensor]) -> Callable[..., Tensor]:
    capture = torch.cuda.make_graphed_callables if torch.is_grad_enabled() else _capture_inference
    return capture(call, tuple(value.clone() for value in inputs.values()))


def _capture_inference(call: nn.Module, static_inputs: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """The same as ``torch.cuda.make_graphed_callables``, for calls without gradients."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            call(*static_inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call(*static_inputs)

    def replay(*inputs: Tensor) -> Tensor:
        torch._foreach_copy_(static_inputs, inputs)
        graph.replay()
        return output.clone()

    return replay


def _adapters(transformer: OpenSoraTransformer3DModel) -> list[PeftConfig | nn.Parameter | None]:
    """What comes and goes with a method of adaptation."""
    return [*getattr(transformer, "peft_config", {}).values(), transformer.modulation_offsets]


def _shapes(inputs: dict[str, Tensor]) -> tuple:
    return tuple((name, value.shape, value.dtype) for name, value in inputs.items())
