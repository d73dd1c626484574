"""A headless browser for tests of pages, and what they ask of every page."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FIND = Path(__file__).parents[2] / "scripts" / "browser"

# The contrast of every text with the colour that it stands on, by the formula of WCAG 2: [ratio, text] below 4.5.
CONTRAST = """() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter(e => !e.closest("svg") && !e.hidden &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return texts.map(e => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.textContent.slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}"""

# What is wider than the window: a function of its width.
BEYOND = """width => [...document.querySelectorAll("main *, header *")].filter(e => !e.closest(".scroll, pre, svg"))
    .filter(e => e.getBoundingClientRect().right > width + 0.5).map(e => e.outerHTML.slice(0, 80))"""


@contextmanager
def chromium() -> Iterator:
    """One that the system has; none is downloaded."""
    found = subprocess.run([FIND, "--find"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.fail(found.stderr)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        # Chromium's own sandbox does not start as root, nor in most containers; the pages are our own.
        browser = tools.chromium.launch(executable_path=found.stdout.strip(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
