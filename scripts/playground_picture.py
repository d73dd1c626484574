"""Take docs/playground.png: a digit of the generator, noise, a part of it hidden by the mouse, and the answer.

It needs a Chromium (scripts/browser); `make playground-picture` runs it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from playwright.sync_api import sync_playwright

from unrelu.playground import bundled, serving

ROOT = Path(__file__).parents[1]


def main() -> None:
    found = subprocess.run([ROOT / "scripts" / "browser", "--find"], capture_output=True, text=True, check=True)
    with serving(bundled()) as server, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=found.stdout.strip(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1120, "height": 860}, color_scheme="light", device_scale_factor=1.25)
        page.goto(server.url)
        answered = page.locator("body[data-state=idle]")
        for name in ("Let it draw one", "Hide", "Gaussian"):
            page.get_by_text(name, exact=True).click()
            answered.wait_for()
        page.get_by_label("Add to the picture").fill("0.1")
        page.get_by_label("Standard deviation").fill("0.1")
        page.get_by_label("Brush").fill("5")
        box = page.locator("#observation").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.38 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.38 * box["height"], steps=10)
        page.mouse.up()
        answered.wait_for()
        page.screenshot(path=ROOT / "docs" / "playground.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
