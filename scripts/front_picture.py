"""The picture of the README, docs/verdicts.png: one observation, two methods, and what the verdict says of each.

python scripts/front_picture.py

Prints what the caption says. Twenty digits are drawn; each has noise, and six hidden rows. Gradient descent runs from
twelve starts, and its best end counts. The picture shows the brightest of the digits that descents do not explain.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import unrelu
from unrelu.runtime.words import probability
from unrelu_studies.kit.random_instances import random
from unrelu_studies.kit.trained_generators import plain_vae

TARGET = Path(__file__).parent.parent / "docs" / "verdicts.png"
DIGITS, STARTS, STEPS = 20, 12, 3000
GREEN, RED = "#2a7f3f", "#b3261e"


def panel(title: str, result: unrelu.Inversion, last: str) -> tuple[str, np.ndarray, str, str]:
    """Title, picture, the verdict in words and a color."""
    words = f"{'explains' if result.success else 'does not explain'} your data\n{last}"
    return title, result.reconstruction, words, GREEN if result.success else RED


def main() -> None:
    """Invert the digits, and draw the brightest that descents do not explain."""
    net = plain_vae("plain-vae-0")
    row = np.arange(784) // 28
    seen = (row < 11) | (row > 16)
    clean = net(random("code", 0, "front picture").standard_normal((DIGITS, net.latent_dim)))
    y = np.where(seen, clean + 0.1 * random("noise", 0, "front picture").standard_normal(clean.shape), np.nan)
    told: dict[str, Any] = {"operator": seen, "noise": "gaussian:0.1"}
    found = unrelu.invert(net, y, **told)
    ends = unrelu.invert(net, np.repeat(y, STARTS, axis=0), "gradient_descent", max_iterations=STEPS, **told)
    p_values = ends.p_value.reshape(DIGITS, STARTS)
    explained = ends.success.reshape(DIGITS, STARTS).any(axis=1)
    print(f"the best of {STARTS} descents explains {explained.sum()} of {DIGITS} digits, unrelu {found.success.sum()}")
    shown = int(np.argmax(np.where(explained, 0, clean.sum(axis=1))))
    descent = ends[STARTS * shown + int(np.argmax(p_values[shown]))]
    result = found[shown]

    panels = [
        ("you observe", y[shown], "noise, and a part is hidden", "black"),
        panel("gradient descent finds", descent, f"the best of {STARTS} starts"),
        panel("unrelu finds", result, f"{probability(result.confidence)} sure: none is better"),
        ("the truth was", clean[shown], "which neither was told", "black"),
    ]
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.6), layout="constrained")
    for axis, (title, picture, words, color) in zip(axes, panels, strict=True):
        axis.imshow(picture.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[], facecolor="lightsteelblue")
        axis.set_title(title, fontsize=13)
        axis.set_xlabel(words, fontsize=11, color=color)
        axis.spines[:].set(color=color, linewidth=1 if color == "black" else 4)
    figure.savefig(TARGET, dpi=110)


if __name__ == "__main__":
    main()
