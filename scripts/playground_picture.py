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
    with serving(bundled()) as url, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=found.stdout.strip(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 860}, color_scheme="light", device_scale_factor=1.25)
        page.goto(url)
        verdict = page.locator("#verdict")
        page.get_by_role("button", name="Let it draw one").click()
        verdict.filter(has_text="EXACT_FIT").wait_for()
        for name in ("Noise to add", "standard deviation"):
            page.get_by_role("spinbutton", name=name).fill("0.1")
        page.get_by_role("button", name="Color", exact=True).click()
        page.locator("button.color").last.click()
        box = page.locator("canvas").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.4 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.32 * box["height"], steps=10)
        page.mouse.up()
        page.get_by_role("button", name="Brush", exact=True).click()  # closes the palette
        verdict.filter(has_text="gaussian:0.1").wait_for()
        page.wait_for_timeout(5000)
        page.screenshot(path=ROOT / "docs" / "playground.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
