"""The examples of the README and of docstrings give what they show, and links lead somewhere; pages: tests/studies."""

from __future__ import annotations

import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unrelu

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "docs/reference", "studies/notes")
PAGES = [page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def check(text: str, name: str) -> None:
    """Run the examples of a text, and compare what they print."""
    test = doctest.DocTestParser().get_doctest(text, {}, name, name, 0)
    assert test.examples
    output: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=output.append)
    assert not output, "".join(output)


def check_page(page: Path) -> None:
    check("\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)), page.name)


def test_examples_of_the_readme():
    check_page(ROOT / "README.md")


@pytest.mark.parametrize("name", unrelu.__all__)
def test_every_public_name_has_an_example(name):
    public = getattr(unrelu, name)
    check(inspect.cleandoc((public if inspect.ismodule(public) else inspect.unwrap(public)).__doc__), name)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_to_files_of_the_repository_are_not_broken(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("gallery/"):  # pages and pictures that the build makes from examples
            example = re.sub(r"^gallery/(images/sphx_glr_)?|(_\d+\.png|\.rst)$", "", target)
            source = "GALLERY_HEADER.rst" if example == "index" else f"{example}.py"
            assert (ROOT / "examples" / source).exists(), target
        elif not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_links_of_built_pages_that_lead_nowhere_and_scripts_from_elsewhere_are_found(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "there.html").write_text('<h1 id="here">There</h1>', encoding="utf-8")
    page = (
        '<a href="there.html#here">1</a> <a href="https://example.org">2</a> <img src="picture.png"> <a href="#">3</a>'
    )
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    command = [sys.executable, ROOT / "scripts" / "check_links.py", tmp_path]
    assert subprocess.run(command, check=False).returncode == 0
    for wrong in (
        '<a href="nowhere.html">',
        '<a href="there.html#elsewhere">',
        '<img src="none.png">',
        '<a href="#no">',
        '<script src="https://example.org/script.js"></script>',
    ):
        (tmp_path / "index.html").write_text(page + wrong, encoding="utf-8")
        assert subprocess.run(command, check=False, capture_output=True).returncode == 1, wrong


def test_the_gallery_orders_every_example():
    order = re.search(
        r"ORDER = \((.*?)\)", (ROOT / "docs" / "gallery_settings.py").read_text(encoding="utf-8"), re.DOTALL
    )
    assert order
    assert sorted(re.findall(r'"(\w+)"', order[1])) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
