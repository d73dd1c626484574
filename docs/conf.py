"""Sphinx: Markdown pages; the gallery from examples, the reference from docstrings, methods and claims from data."""

import dataclasses
import sys
from pathlib import Path
from typing import TypeVar

import numpy.typing

import unrelu
from unrelu.methods import METHODS
from unrelu_studies.paper.reproduction_page import page

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # gallery_settings, mathml

# Shown and linked by its name, not as the union of all that it stands for.
numpy.typing.ArrayLike = TypeVar("ArrayLike")
numpy.typing.ArrayLike.__module__ = "numpy.typing"

project = "unrelu"
author = "The unrelu developers"
copyright = author
release = version = unrelu.__version__
extensions = [
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "gallery/*.ipynb"]
suppress_warnings = ["ref.python", "epub.unknown_project_files"]

html_theme = "furo"
html_title = "unrelu"
html_static_path = ["static"]
html_css_files = ["unrelu.css"]
html_copy_source = False

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False

# Names of other libraries are links. The build reaches no network: inventories/ lists the names that the pages use, in
# the format of Sphinx inventories of version 1, which is text.
intersphinx_mapping = {
    name: (url, f"inventories/{name}.txt")
    for name, url in {
        "deepinv": "https://deepinv.github.io/deepinv/",
        "matplotlib": "https://matplotlib.org/stable/",
        "numpy": "https://numpy.org/doc/stable/",
        "python": "https://docs.python.org/3/",
        "scipy": "https://docs.scipy.org/doc/scipy/",
        "sklearn": "https://scikit-learn.org/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
    }.items()
}

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/(?!fit_planck|sample_with_cobaya)\w+\.py$",  # those need what a build does not have
    "within_subsection_order": "gallery_settings.position",
    "copyfile_regex": r"(?!)",
    "doc_module": ("unrelu",),
    "reference_url": {"unrelu": None},
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 1e9,
    "capture_repr": (),
    "image_scrapers": ("gallery_settings.figures", "matplotlib"),
}


def write_method_page() -> None:
    """Write the options of all methods from the registry, so that they cannot fall behind, below the page's text."""
    page, heading = HERE / "methods.md", "## All methods\n"
    old = page.read_text(encoding="utf-8")
    lines = []
    for name, entry in METHODS.items():
        lines += [f"### `{name}`", "", f"{entry.summary}. `fun` is in: {entry.norm}.", ""]
        if dataclasses.fields(entry.options):
            defaults = ", ".join(f"`{option}={value!r}`" for option, value in entry.defaults().items())
            lines += [f"Options: {defaults}.", ""]
        target = f"{entry.options.__module__}.{entry.options.__qualname__}"
        lines += ["```{eval-rst}", f".. autoclass:: {target}", "   :noindex:", "```", ""]
    text = f"{old.split(heading)[0]}{heading}\n" + "\n".join(lines)
    if old != text:
        page.write_text(text, encoding="utf-8")


def write_reproduction_page() -> None:
    """Write the page of the paper's claims from the numbers that the experiments saved."""
    target, text = HERE / "reproduction.md", page(HERE / "reproduction", "reproduction/")
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")


write_method_page()
write_reproduction_page()
