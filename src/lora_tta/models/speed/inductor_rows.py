"""How the compiler of PyTorch normalises rows, on a GPU.

Importing the compiler takes seconds, so this is imported where something is compiled.
"""

from torch._inductor.choices import InductorChoices
from torch._inductor.codegen.simd_kernel_features import SIMDKernelFeatures
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.virtualized import V

# Values of a row that the registers of a block of threads hold.
MAX_ROW = 4096


class _WholeRows(InductorChoices):
    """The compiler's own choices, except that longer rows are read once and then stay in registers.

    By itself it does so up to 1024 values, and reads longer rows twice: twice the time for the
    normalisation of a model 3072 wide (docs/log/gpu_attempts.md).
    """

    @staticmethod
    def should_use_persistent_reduction(features: SIMDKernelFeatures, cooperative_reduction: bool) -> bool:
        if features.get_reduction_hint() == ReductionHint.INNER and not cooperative_reduction:
            return V.graph.sizevars.statically_known_leq(features.reduction_numel, MAX_ROW)
        return InductorChoices.should_use_persistent_reduction(features, cooperative_reduction)


def keep_rows_in_registers() -> None:
    """Let everything that this process compiles from now on be normalised so."""
    V.set_choices_handler(_WholeRows())
