"""Formulas as MathML, which browsers draw themselves: the pages need no script and no network."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert


def inline(translator, node):
    """A formula in a line of text."""
    translator.body.append(convert(node.astext()))
    raise SkipNode


def block(translator, node):
    """A formula on lines of its own; ``\\\\`` and ``&`` break and align them."""
    latex = node.astext()
    lines = f"\\begin{{aligned}}{latex}\\end{{aligned}}" if "\\\\" in latex else latex
    translator.body.append(f'<div class="math">{convert(lines, display="block")}</div>')
    raise SkipNode


def setup(app):
    """Register with Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
