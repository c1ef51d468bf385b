"""The files of a model's folder, checked before anything is loaded: each fault names its file and its key."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from lora_tta.errors import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds.

    Raises:
        UserError: it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): get it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds no mapping): get it again")
    return content


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """A file of safetensors, open for reading.

    Raises:
        UserError: it is none, or has been cut short.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(
            f"{path} is no whole file of safetensors ({error}): it was cut short or is of another format; "
            "get it again"
        ) from None


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file by their names, from its header alone."""
    with open_weights(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def check_shapes(model: nn.Module, files: Sequence[Path]) -> Mapping[str, Path]:
    """Check the shapes of those tensors in files that a model has.

    Returns:
        The file of each tensor by its name.

    Raises:
        UserError: one has another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    file_of = {}
    for path in files:
        for name, shape in shapes_in(path).items():
            file_of[name] = path
            if shape != expected.get(name, shape):
                raise other_weights(path, f"{name} has the shape {shape} and not {expected[name]}")
    return file_of


def check_weights(model: nn.Module, files: Sequence[Path]) -> None:
    """Check that files hold the tensors of a model under its own names, all of them and no others.

    Raises:
        UserError: they do not.
    """
    file_of = check_shapes(model, files)
    names = model.state_dict().keys()
    check_names(sorted(names - file_of.keys()), sorted(file_of.keys() - names), file_of)


def check_names(missing: Sequence[str], unexpected: Sequence[str], file_of: Mapping[str, Path]) -> None:
    """Refuse weights that a model lacks or does not have.

    Raises:
        UserError: naming the first of them, and how many there are.
    """
    if missing:
        (folder,) = {path.parent for path in file_of.values()}
        raise other_weights(folder, f"{_first_of(missing)} missing in {_names(file_of)}")
    if unexpected:
        path = file_of[min(unexpected)]
        raise other_weights(path, f"{_first_of(unexpected)} not of this model")


def other_weights(place: Path, difference: str) -> UserError:
    """A file or folder whose weights are not those of its model."""
    return UserError(
        f"{place} holds other weights than its config.json describes: {difference}; get both from one place"
    )


def _first_of(names: Sequence[str]) -> str:
    others = f" and {len(names) - 1} others are" if len(names) > 1 else " is"
    return f"{min(names)}{others}"


def _names(file_of: Mapping[str, Path]) -> str:
    return ", ".join(sorted({path.name for path in file_of.values()}))
