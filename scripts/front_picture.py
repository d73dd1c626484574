"""The picture of the README, docs/verdicts.png: one observation, two methods, and what the verdict says of each.

python scripts/front_picture.py
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
STARTS = 12
GREEN, RED = "#2a7f3f", "#b3261e"


def sentence(result: unrelu.Inversion) -> str:
    """The verdict on one observation, as people say it."""
    explains = "explains it" if result.success else "does not explain it"
    p_value = f"{result.p_value:.2f}" if result.success else f"below {max(10 * result.p_value, 1e-300):.0e}"
    return f"{result.status}: {explains}\np-value {p_value}"


def main() -> None:
    """Invert a digit with hidden rows by gradient descent and by the search, and draw what came out.

    The digit is that of a code: the one that comes nearest to a real digit. Gradient descent runs from several random
    starts; the picture shows where the worst of them ended.
    """
    net = plain_vae("plain-vae-0")
    clean = net(unrelu.invert(net, unrelu.zoo.digits()[0][91].ravel(), noise="gaussian:0.2").z)
    row = np.arange(784) // 28
    seen = (row < 11) | (row > 16)
    y = np.where(seen, clean + 0.1 * random("noise", 32, "front picture").standard_normal(784), np.nan)
    told: dict[str, Any] = {"operator": seen, "noise": "gaussian:0.1"}
    found = unrelu.invert(net, y, **told)
    descents = unrelu.invert(net, np.tile(y, (STARTS, 1)), "gradient_descent", max_iterations=3000, **told)
    descent = descents[int(np.argmin(descents.p_value))]

    failed = STARTS - descents.success.sum()
    panels = [
        ("you observe", y, "noisy, and a part is hidden", "black"),
        (
            "gradient descent may find",
            descent.reconstruction,
            f"{sentence(descent)}\n{failed} of {STARTS} starts end in a misfit",
            RED,
        ),
        ("unrelu finds", found.reconstruction, f"{sentence(found)}\nconfidence {probability(found.confidence)}", GREEN),
        ("the truth was", clean, "which neither was told", "black"),
    ]
    figure, axes = plt.subplots(1, 4, figsize=(10, 3.6), layout="constrained")
    for axis, (title, picture, words, color) in zip(axes, panels, strict=True):
        axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[], facecolor="lightsteelblue")
        axis.set_title(title, fontsize=13)
        axis.set_xlabel(words, fontsize=11, color=color)
        axis.spines[:].set(color=color, linewidth=1 if color == "black" else 4)
    figure.savefig(TARGET, dpi=110)


if __name__ == "__main__":
    main()
