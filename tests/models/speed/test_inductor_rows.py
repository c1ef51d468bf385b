"""Which rows the compiler keeps in registers: asked for the rule alone, since kernels need a GPU."""

from types import SimpleNamespace

import pytest
import sympy
from torch._inductor.choices import InductorChoices
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.sizevars import SizeVarAllocator
from torch._inductor.virtualized import V

from lora_tta.models.speed.inductor_rows import keep_rows_in_registers


def row_of(length: int, hint: ReductionHint = ReductionHint.INNER) -> SimpleNamespace:
    """What the compiler knows of a kernel that reduces 2780 rows."""
    return SimpleNamespace(
        get_reduction_hint=lambda: hint,
        reduction_numel=sympy.Integer(length),
        numel=sympy.Integer(2780),
        strict_reduction_rblock=lambda: None,
    )


@pytest.fixture
def is_kept():
    """The rule after the switch, which holds for this test alone."""
    with V.set_choices_handler(InductorChoices()):
        keep_rows_in_registers()
        with V.set_graph_handler(SimpleNamespace(sizevars=SizeVarAllocator())):
            yield V.choices.should_use_persistent_reduction


def test_the_models_rows_are_kept_which_by_default_are_read_twice(is_kept):
    assert is_kept(row_of(3072), False)
    assert not InductorChoices().should_use_persistent_reduction(row_of(3072), False)


@pytest.mark.parametrize("length", [64, 1024])
def test_shorter_rows_are_kept_as_ever(is_kept, length):
    assert is_kept(row_of(length), False)


def test_rows_too_long_for_registers_are_not(is_kept):
    assert not is_kept(row_of(8192), False)


@pytest.mark.parametrize(
    ("features", "cooperative"),
    [(row_of(3072, ReductionHint.OUTER), False), (row_of(3072), True), (row_of(512), True)],
)
def test_other_reductions_are_left_to_the_compiler(is_kept, features, cooperative):
    expected = InductorChoices().should_use_persistent_reduction(features, cooperative)
    assert is_kept(features, cooperative) == expected
