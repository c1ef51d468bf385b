"""Which code a piece of work runs, on packages of a few lines."""

from collections.abc import Mapping
from pathlib import Path

import numpy
import pytest

from lora_tta.cache.closure import (
    all_modules,
    code_without_prose,
    import_closure,
    libraries,
    module_file,
    own_imports,
    source_files,
)


@pytest.fixture
def package(tmp_path):
    """Makes a package out of texts of files; every folder becomes a package too."""

    def make(files: Mapping[str, str]) -> Path:
        root = tmp_path / "lora_tta"
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for folder in (path.parent, *path.parent.parents):
                if folder == tmp_path:
                    break
                (folder / "__init__.py").touch()
        return root

    return make


def closure_of(root: Path, *entries: str, **options) -> set[str]:
    return set(import_closure(*(f"lora_tta.{entry}" for entry in entries), root=root, **options))


@pytest.mark.parametrize(
    "statement",
    [
        "import lora_tta.other",
        "import lora_tta.other as short",
        "from lora_tta import other",
        "from lora_tta.other import something",
        "from lora_tta.other import *",
        "def function():\n    from lora_tta.other import something",
        "class Thing:\n    def method(self):\n        if self:\n            import lora_tta.other",
        "try:\n    import lora_tta.other\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_import_counts_also_inside_of_functions(package, statement):
    root = package({"entry.py": statement, "other.py": "", "stranger.py": ""})
    assert closure_of(root, "entry") == {"lora_tta", "lora_tta.entry", "lora_tta.other"}


@pytest.mark.parametrize(
    "statement",
    [
        "if TYPE_CHECKING:\n    from lora_tta.other import something",
        "if typing.TYPE_CHECKING:\n    from lora_tta.other import something",
        "def function():\n    if TYPE_CHECKING:\n        import lora_tta.other",
        "text = 'import lora_tta.other'",
    ],
)
def test_imports_for_type_checkers_alone_do_not_count(package, statement):
    root = package({"entry.py": statement, "other.py": ""})
    assert closure_of(root, "entry") == {"lora_tta", "lora_tta.entry"}


def test_what_is_imported_where_types_are_not_checked_counts(package):
    text = "if TYPE_CHECKING:\n    import lora_tta.typing_only\nelse:\n    import lora_tta.other"
    root = package({"entry.py": text, "other.py": "", "typing_only.py": ""})
    assert closure_of(root, "entry") == {"lora_tta", "lora_tta.entry", "lora_tta.other"}


def test_imports_of_imports_count_and_circles_end(package):
    root = package(
        {
            "entry.py": "import lora_tta.second",
            "second.py": "import lora_tta.third",
            "third.py": "import lora_tta.entry",
        }
    )
    assert closure_of(root, "entry") == {"lora_tta", "lora_tta.entry", "lora_tta.second", "lora_tta.third"}


def test_the_packages_around_a_module_run_too_with_all_that_they_import(package):
    root = package(
        {
            "entry.py": "import lora_tta.wing.room.thing",
            "wing/room/thing.py": "",
            "wing/room/unused.py": "",
            "wing/__init__.py": "import lora_tta.helper",
            "helper.py": "",
        }
    )
    assert closure_of(root, "entry") == {
        "lora_tta",
        "lora_tta.entry",
        "lora_tta.wing",
        "lora_tta.wing.room",
        "lora_tta.wing.room.thing",
        "lora_tta.helper",
    }


def test_several_entries_have_one_closure_in_alphabetical_order(package):
    root = package({"a.py": "import lora_tta.shared", "b.py": "import lora_tta.shared", "shared.py": ""})
    names = import_closure("lora_tta.b", "lora_tta.a", root=root)
    assert names == ("lora_tta", "lora_tta.a", "lora_tta.b", "lora_tta.shared")


def test_what_is_left_out_goes_with_all_that_only_it_imports(package):
    root = package(
        {
            "entry.py": "import lora_tta.settings, lora_tta.shared",
            "settings.py": "import lora_tta.parser, lora_tta.shared",
            "parser.py": "",
            "shared.py": "",
        }
    )
    left = closure_of(root, "entry", leave_out=["lora_tta.settings"])
    assert left == {"lora_tta", "lora_tta.entry", "lora_tta.shared"}


@pytest.mark.parametrize("entry", ["lora_tta.no_such_module", "numpy", "lora_tta.entry.function"])
def test_an_unknown_entry_is_an_error_that_names_it(package, entry):
    root = package({"entry.py": "def function(): ..."})
    with pytest.raises(ValueError, match=entry):
        import_closure("lora_tta.entry", entry, root=root)


def test_a_modules_own_imports_are_one_step(package):
    root = package({"wing/a.py": "import lora_tta.b", "b.py": "import lora_tta.c", "c.py": ""})
    assert own_imports("lora_tta.wing.a", root) == {"lora_tta", "lora_tta.wing", "lora_tta.b"}


def test_an_edited_file_is_read_again(package):
    root = package({"entry.py": "import lora_tta.other", "other.py": ""})
    assert "lora_tta.other" in closure_of(root, "entry")
    (root / "entry.py").write_text("")
    assert "lora_tta.other" not in closure_of(root, "entry")


def test_templates_count_with_the_module_that_loads_them(package):
    root = package(
        {
            "report/page.py": "environment = Environment(loader=PackageLoader('lora_tta.report'))",
            "report/other.py": "",
        }
    )
    template = root / "report" / "templates" / "parts" / "page.html"
    template.parent.mkdir(parents=True)
    template.touch()
    page, other = root / "report" / "page.py", root / "report" / "other.py"
    assert source_files(["lora_tta.report.page"], root) == [page, template]
    assert source_files(["lora_tta.report.other"], root) == [other]


def test_the_report_counts_its_own_templates():
    files = {path.name for path in source_files(["lora_tta.report.page"])}
    assert {"page.py", "report.html", "style.html"} <= files


def test_libraries_have_the_names_of_their_distributions_and_their_versions(package):
    root = package(
        {
            "a.py": "import numpy.linalg\nimport json\nimport lora_tta.b",
            "b.py": "from PIL import Image\ndef f():\n    import ruamel.yaml",
            "c.py": "if TYPE_CHECKING:\n    import torch\nimport no_such_library",
        }
    )
    assert libraries(["lora_tta.a"], root) == {"numpy": numpy.__version__}
    assert {"pillow", "ruamel.yaml"} <= libraries(["lora_tta.b"], root).keys()
    assert libraries(["lora_tta.c"], root) == {}


def test_code_is_the_same_with_other_prose_only(tmp_path):
    def code(text: str) -> str:
        path = tmp_path / "module.py"
        path.write_text(text)
        return code_without_prose(path)

    plain = code("X = 1\ndef f(a):\n    return a + X\nclass C:\n    pass")
    assert plain == code(
        '"""About."""\n\n# Why.\nX = 1\n"""What X is."""\n\n\ndef f(a):\n    """What it does."""\n'
        '    return a + X  # the sum\n\n\nclass C:\n    """Nothing else."""'
    )
    assert plain != code("X = 2\ndef f(a):\n    return a + X\nclass C:\n    pass")
    assert plain != code("X = 1\ndef f(a):\n    return X + a\nclass C:\n    pass")


def test_every_character_of_a_file_that_is_not_python_counts(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("# not a comment")
    assert code_without_prose(path) == "# not a comment"


def test_modules_are_found_by_their_names_and_names_by_the_files(package):
    root = package({"wing/a.py": "", "b.py": ""})
    assert all_modules(root) == ["lora_tta", "lora_tta.b", "lora_tta.wing", "lora_tta.wing.a"]
    assert module_file("lora_tta.wing", root) == root / "wing" / "__init__.py"
    assert module_file("lora_tta.b", root) == root / "b.py"
    assert module_file("lora_tta.c", root) is None
    assert module_file("other.b", root) is None
