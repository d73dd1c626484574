"""The examples of the README and the documentation give what they show."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path

import pytest

import unrelu

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page):
    return "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "```pycon" in p.read_text(encoding="utf-8")], ids=lambda p: p.name
)
def test_examples(page):
    test = doctest.DocTestParser().get_doctest(examples(page), {}, page.name, str(page), 0)
    assert test.examples
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=output.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(output)


@pytest.mark.parametrize("name", unrelu.__all__)
def test_every_public_name_has_an_example(name):
    public = getattr(unrelu, name)
    text = (public if inspect.ismodule(public) else inspect.unwrap(public)).__doc__
    test = doctest.DocTestParser().get_doctest(inspect.cleandoc(text), {}, name, name, 0)
    assert test.examples
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=output.append)
    assert runner.failures == 0, "".join(output)


def test_the_readme_is_among_them():
    assert "```pycon" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_of_the_repository_are_not_broken(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
