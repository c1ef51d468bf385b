"""The floors of the house: a module imports from its own floor and from those below, never from above."""

import ast
import re
from collections.abc import Iterator

import pytest

from lora_tta.cache.closure import all_modules, import_closure, module_file, own_imports

FLOORS = [
    ["end_at_once", "ends", "errors", "files", "imports", "peak_memory", "places"],
    ["records"],
    ["config"],
    ["data"],
    ["models"],
    ["backbones"],
    ["cache", "evaluation"],
    ["adaptation", "generation"],
    ["report"],
    ["experiment"],
    ["tracking"],
    ["search"],
    ["stages"],
    ["cli"],
]
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
# The training of the embedded model, a building of its own.
ANNEX = "embedded"
OPEN_TO_THE_ANNEX = {"config", "data", "models", "records", "files", "errors", "evaluation"}

MAX_LINES = 400
LONGER = {
    "lora_tta.config": "one section for each of params.yaml, which is parsed in one place",
    "lora_tta.models.transformer": "one network, whose parts are read against the published ones",
}
# Only the rooms of methods and models know what these are.
NAMES_OF_METHODS_AND_MODELS = re.compile(
    r"opensora|open-sora|open sora|peft|lora_alpha|LoraConfig|LoraParams", re.IGNORECASE
)

MODULES = all_modules()


def room(module: str) -> str:
    """The part of the package that a module belongs to, empty for the package itself."""
    return ".".join(module.split(".")[1:2])


def text_of(module: str) -> str:
    return module_file(module).read_text(encoding="utf-8")


def imports(module: str) -> set[str]:
    """The modules of the package that are imported; the packages around a module are not its own doing."""
    return {name for name in own_imports(module) if not module.startswith(f"{name}.")}


def run_before(module: str) -> set[str]:
    """All modules that importing one runs first, or would if its functions' imports stood at its top."""
    found = {name.rsplit(".", depth)[0] for name in imports(module) for depth in range(name.count(".") + 1)}
    return {name for name in found - {module} if not module.startswith(f"{name}.")}


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports, those for type checkers included."""
    return (each for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom))


def libraries(module: str) -> set[str]:
    """Top-level names of all that a module imports, for type checkers or not."""
    names: set[str] = set()
    for statement in statements(ast.parse(text_of(module))):
        found = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
        names |= {name.partition(".")[0] for name in found or [statement.module or ""]}
    return names


def users_of(library: str) -> set[str]:
    return {room(module) for module in MODULES if library in libraries(module)}


def test_every_room_has_its_floor():
    rooms = {room(module) for module in MODULES} - {""}
    assert rooms == HEIGHT.keys() | {ANNEX}


def test_no_module_imports_from_a_higher_floor():
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        if room(module) in HEIGHT
        for other in imports(module)
        if HEIGHT.get(room(other), -1) > HEIGHT[room(module)]
    ]
    assert not wrong


def test_the_package_itself_imports_nothing():
    assert imports("lora_tta") == set()


def test_rooms_on_one_floor_do_not_import_each_other():
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if room(module) != room(other) and HEIGHT.get(room(module)) == HEIGHT.get(room(other), -1)
    ]
    assert not wrong


def test_the_annex_imports_little_and_is_imported_by_nobody():
    for module in MODULES:
        others = {room(other) for other in imports(module)} - {room(module), ""}
        if room(module) == ANNEX:
            assert others <= OPEN_TO_THE_ANNEX, module
        else:
            assert ANNEX not in others, module


def test_no_modules_import_each_other_in_a_circle():
    """The ``__init__`` of another package runs before its modules, so it counts as imported."""
    waiting = {module: run_before(module) for module in MODULES}
    while free := [module for module, others in waiting.items() if not others & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting, f"in circles or above them: {sorted(waiting)}"


def test_no_module_takes_names_from_the_packages_around_it():
    """They have not been run to their end when it runs."""
    wrong = [
        f"{module}:{statement.lineno} takes {alias.name}"
        for module in MODULES
        for statement in statements(ast.parse(text_of(module)))
        if isinstance(statement, ast.ImportFrom) and module.startswith(f"{statement.module}.")
        for alias in statement.names
        if module_file(f"{statement.module}.{alias.name}") is None
    ]
    assert not wrong


def test_imports_are_absolute():
    """What reads them (``cache.closure``) takes no others."""
    relative = [
        f"{module}:{statement.lineno}"
        for module in MODULES
        for statement in statements(ast.parse(text_of(module)))
        if isinstance(statement, ast.ImportFrom) and statement.level
    ]
    assert not relative


def test_dvc_is_known_to_the_stages_that_it_runs_alone():
    assert users_of("dvc") | users_of("dvc_data") == {"stages"}


def test_optuna_is_known_to_the_search_alone():
    assert users_of("optuna") == {"search"}


def test_mlflow_is_known_to_the_tracking_alone():
    assert users_of("mlflow") == {"tracking"}


@pytest.mark.parametrize("lean", ["records", "config", "files", "errors", "cache"])
def test_rooms_that_everything_enters_bring_no_torch(lean):
    for module in MODULES:
        if room(module) == lean:
            heavy = [each for each in import_closure(module) if "torch" in libraries(each)]
            assert not heavy, module


@pytest.mark.parametrize("neutral", ["experiment", "search", "stages", "tracking"])
def test_methods_and_models_have_no_names_in_the_rooms_that_work_with_any(neutral):
    found = [
        f"{module_file(module)}:{number}: {line.strip()}"
        for module in MODULES
        if room(module) == neutral
        for number, line in enumerate(text_of(module).splitlines(), start=1)
        if NAMES_OF_METHODS_AND_MODELS.search(line)
    ]
    assert not found


def test_no_module_is_long_without_a_reason():
    long = {module for module in MODULES if len(text_of(module).splitlines()) > MAX_LINES}
    assert long == LONGER.keys()


def test_every_module_says_what_it_is():
    """An empty ``__init__.py`` has nothing to say."""
    silent = [
        module for module in MODULES if (text := text_of(module)) and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent
