"""The code that a piece of work runs: the modules that its entry modules import, and their libraries.

Imports are read from the syntax trees, without importing anything. Those inside functions count; those for
type checkers alone do not.
"""

import ast
import sys
from collections.abc import Collection, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import lora_tta

PACKAGE = "lora_tta"
ROOT = Path(lora_tta.__file__).parent


def import_closure(*entries: str, leave_out: Collection[str] = (), root: Path = ROOT) -> tuple[str, ...]:
    """The project's modules that the entry modules import, directly or not, themselves included.

    Args:
        entries: dotted names of modules.
        leave_out: modules that do not count, nor what only they import.
        root: folder of the package.

    Raises:
        ValueError: an entry is no module of the package.
    """
    if missing := [entry for entry in entries if module_file(entry, root) is None]:
        raise ValueError(f"no modules of {PACKAGE}: {', '.join(missing)}")
    found: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        if module in found or module in leave_out:
            continue
        found.add(module)
        waiting += own_imports(module, root)
    return tuple(sorted(found))


def own_imports(module: str, root: Path = ROOT) -> set[str]:
    """The project's modules that a module imports itself; the packages around it count as imported."""
    parents = {module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)}
    imported = {name for name in _imported_names(_source_file(module, root)) if _is_own(name)}
    # `from package import name` imports a module or something inside of one.
    found = {name if module_file(name, root) else name.rpartition(".")[0] for name in imported}
    return parents | {name for name in found if module_file(name, root)}


def source_files(modules: Collection[str], root: Path = ROOT) -> list[Path]:
    """The files of modules, and the templates of those that load some by jinja2's ``PackageLoader``."""
    files = {_source_file(module, root) for module in modules}
    for file in list(files):
        for package in _template_packages(file.read_text(encoding="utf-8")):
            folder = _source_file(package, root).parent / "templates"
            files |= {path for path in folder.rglob("*") if path.is_file()}
    return sorted(files)


def libraries(modules: Collection[str], root: Path = ROOT) -> dict[str, str]:
    """Versions of the installed libraries that the modules import, by the names of their distributions."""
    files = [_source_file(module, root) for module in modules]
    names = {name.partition(".")[0] for file in files for name in _imported_names(file)}
    third_party = {name for name in names if name != PACKAGE and name not in sys.stdlib_module_names}
    versions = {}
    for distribution in {each for name in third_party for each in _distributions().get(name, ())}:
        try:
            versions[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return dict(sorted(versions.items()))


def code_without_prose(path: Path) -> str:
    """The syntax tree of a Python file without comments and docstrings; the text of any other file."""
    text = path.read_text(encoding="utf-8")
    return _without_prose(text) if path.suffix == ".py" else text


def module_file(module: str, root: Path = ROOT) -> Path | None:
    """The file of a module of the package, None if there is none."""
    relative = Path(*module.split(".")[1:])
    for path in (root / relative / "__init__.py", (root / relative).with_suffix(".py")):
        if _is_own(module) and path.is_file():
            return path
    return None


def all_modules(root: Path = ROOT) -> list[str]:
    """Dotted names of all modules of the package."""
    return sorted(
        ".".join((PACKAGE, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        for path in root.rglob("*.py")
    )


def _source_file(module: str, root: Path) -> Path:
    path = module_file(module, root)
    if path is None:
        raise ValueError(f"{module} is no module of {PACKAGE}")
    return path


def _is_own(name: str) -> bool:
    return name.partition(".")[0] == PACKAGE


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: list(found) for name, found in packages_distributions().items()}


# A file is parsed once for all the kinds of work that it is part of. What is kept goes by the file's text, so
# that nothing can be out of date.
@cache
def _without_prose(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


@cache
def _template_packages(text: str) -> tuple[str, ...]:
    """The packages whose templates a file loads."""
    if "PackageLoader" not in text:
        return ()
    packages = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Name(id="PackageLoader"), args=[ast.Constant(value=str(package))]):
                packages.append(package)
    return tuple(packages)


def _imported_names(path: Path) -> tuple[str, ...]:
    return _names_in(path.read_text(encoding="utf-8"))


@cache
def _names_in(text: str) -> tuple[str, ...]:
    return tuple(_walk(ast.parse(text)))


def _walk(node: ast.AST) -> Iterator[str]:
    """Dotted names that the imports below a node name."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.orelse:
            yield from _walk(child)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        # No import is part of an expression.
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _walk(child)
