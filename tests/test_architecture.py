"""A module imports only what is below it, one module talks to HiGHS, and importing the command line is cheap."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import unrelu

SOURCE = Path(unrelu.__file__).parent
ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "studies" / "unrelu_studies"
PAGE = ROOT / "docs" / "design.md"
# The rows of the page's table, from the bottom of the house to its top.
ORDER = tuple(re.findall(r"^\| `(\w+)/?` \|", PAGE.read_text(encoding="utf-8"), re.M))
FILES = sorted(SOURCE.rglob("*.py"))
BOTH = [*FILES, *sorted(STUDIES.rglob("*.py"))]


def row(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@cache
def imported(path: Path) -> set[str]:
    """Every module named in an import statement of the file, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rows_imported(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    return {p[1] for p in parts if p[0] == "unrelu" and len(p) > 1 and p[1] in ORDER}


def test_every_file_has_its_row():
    assert {row(path) for path in FILES} == {*ORDER, "__init__", "_version"}
    assert len(ORDER) == len(set(ORDER)) > 20


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_downwards(name):
    allowed = set(ORDER[: ORDER.index(name) + 1])
    for path in FILES:
        if row(path) == name:
            assert rows_imported(path) <= allowed, path


def test_what_the_page_names_exists():
    names = re.findall(r"`((?:_?[a-z]\w*\.)+\w+)`", PAGE.read_text(encoding="utf-8"))
    ours = [name for name in names if name.split(".")[0] in ORDER]
    assert len(ours) > 40
    for name in ours:
        assert pkgutil.resolve_name(f"unrelu.{name}"), name


def test_no_folder_has_the_name_of_a_public_function():
    """Importing a folder makes it an attribute of the package, in place of the function."""
    stub = (SOURCE / "__init__.pyi").read_text(encoding="utf-8")
    names = set(re.findall(r"^from \.\w[\w.]* import (\w+)", stub, re.M))
    assert {"invert", "posterior", "Network"} <= names
    assert not names & {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def test_the_check_sees_imports():
    """Against a check that passes because it finds nothing."""
    assert {"models", "errors"} <= rows_imported(SOURCE / "problem.py")
    assert {"zoo", "display", "runtime"} <= rows_imported(SOURCE / "cli" / "_demonstration.py")


def test_certificates_are_checked_without_the_search():
    names = ("_branch_and_bound", "_triangle_relaxation", "node_program", "bound_tightening", "certifying")
    search = [f"unrelu.certification.{name}" for name in names]
    code = f"import sys, unrelu.certification.certificate; print([m for m in {search} if m in sys.modules]); "
    code += "import unrelu; unrelu.invert, unrelu.load, unrelu.zoo; print('matplotlib' in sys.modules)"
    assert run(code) == "[]\nFalse\n", "nor are pictures imported before they are drawn"


def test_no_module_imports_itself_by_way_of_others():
    modules = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in FILES
    }
    graph = {}
    for name, path in modules.items():
        found = imported(path) & modules.keys()
        # ``from package import module`` needs the module, not what else the package offers.
        graph[name] = {m for m in found if not any(other.startswith(f"{m}.") for other in found)} - {name}
    graph["unrelu"] = set()  # its names are imported when they are used
    done: set[str] = set()
    while ready := [name for name in graph if name not in done and graph[name] <= done]:
        done |= set(ready)
    assert done == graph.keys()


def test_names_stand_for_one_thing():
    """In the library and the studies together."""
    names = Counter(path.stem for path in BOTH if path.name != "__init__.py")
    assert {name: count for name, count in names.items() if count > 1} == {}
    classes = Counter(
        node.name for path in BOTH for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    )
    assert {name: count for name, count in classes.items() if count > 1} == {}


def test_the_library_imports_nothing_of_the_studies():
    assert not [path for path in FILES if any(name.startswith("unrelu_studies") for name in imported(path))]


def test_what_studies_share_knows_no_study():
    for path in (STUDIES / "kit").rglob("*.py"):
        ours = {name for name in imported(path) if name.startswith("unrelu_studies.")}
        assert not {name for name in ours if not name.startswith("unrelu_studies.kit")}, path


def test_an_underscore_says_that_nothing_outside_of_the_folder_imports_a_module():
    documented = "".join(page.read_text(encoding="utf-8") for page in (PAGE.parent / "reference").glob("*.md"))
    documented += (PAGE.parent / "methods.md").read_text(encoding="utf-8")
    users = [*BOTH, *(ROOT / "scripts").glob("*.py"), *(ROOT / "fuzz").rglob("*.py"), *(ROOT / "docs").glob("*.py")]
    for path in FILES:
        if path.parent == SOURCE or path.name == "__init__.py":
            continue
        name = ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        outside = [user for user in users if path.parent not in user.parents and name in imported(user)]
        if path.stem.startswith("_"):
            assert not outside, path
        else:
            assert outside or name in documented or name == "unrelu.cli.process", f"{path} is private to its folder"


def test_only_one_module_talks_to_highs():
    users = {path.relative_to(SOURCE).as_posix() for path in FILES if "highspy" in path.read_text(encoding="utf-8")}
    importers = {user for user in users if "highspy" in imported(SOURCE / user)}
    assert importers == {"lp/highs.py"}


# What of the heavy libraries a process has loaded, as an expression.
LOADED = "[m for m in ('numpy', 'scipy', 'torch', 'highspy', 'matplotlib') if m in sys.modules]"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["unrelu", "unrelu.cli.process", "unrelu.errors"])
def test_importing_does_not_load_the_heavy_libraries(module):
    assert run(f"import {module}, sys; print({LOADED})") == "[]\n"


def test_helping_does_not_load_the_heavy_libraries():
    code = f"""
import sys
from unrelu.cli.process import main
sys.argv = ["unrelu", "invert", "--help"]
try:
    main()
except SystemExit as end:
    print(end.code, {LOADED})
"""
    assert run(code).splitlines()[-1] == "0 []"


def test_the_version_that_one_cites_is_this_one():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert cited is not None
    assert cited[1] == unrelu.__version__
