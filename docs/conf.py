"""Sphinx: Markdown pages; the reference from docstrings, methods from their registry, claims from numbers."""

import dataclasses
from pathlib import Path

import unrelu
from unrelu.methods import METHODS
from unrelu_studies.paper.reproduction_page import page

project = "unrelu"
author = "The unrelu developers"
release = version = unrelu.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
html_theme = "alabaster"
html_theme_options = {"description": "Invert deep ReLU generative models", "fixed_sidebar": True}
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
suppress_warnings = ["ref.python", "epub.unknown_project_files"]


def write_method_page() -> None:
    """Write the page of methods from the registry, so that it cannot fall behind."""
    lines = ["# Methods and their options", "", "Generated from the registry in `unrelu.methods`.", ""]
    for name, entry in METHODS.items():
        lines += [f"## `{name}`", "", f"{entry.summary}. `fun` is in: {entry.norm}.", ""]
        if dataclasses.fields(entry.options):
            defaults = ", ".join(f"`{option}={value!r}`" for option, value in entry.defaults().items())
            lines += [f"Options: {defaults}.", ""]
        target = f"{entry.options.__module__}.{entry.options.__qualname__}"
        lines += ["```{eval-rst}", f".. autoclass:: {target}", "   :noindex:", "```", ""]
    page = Path(__file__).parent / "methods.md"
    text = "\n".join(lines)
    if not page.exists() or page.read_text(encoding="utf-8") != text:
        page.write_text(text, encoding="utf-8")


def write_reproduction_page() -> None:
    """Write the page of the paper's claims from the numbers that the experiments saved."""
    here = Path(__file__).parent
    target, text = here / "reproduction.md", page(here / "reproduction", "reproduction/")
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


write_method_page()
write_reproduction_page()
