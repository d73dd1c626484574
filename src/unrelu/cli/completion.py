"""What a shell completes: models, methods, noise and norms.

Nothing is imported here: a shell waits for it at every Tab. A test compares the names with the registries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

METHODS = (
    "auto", "exact", "linf", "l1", "relaxed", "least_squares", "lm", "gradient_descent", "adam", "plugin", "ilo",
    "projected",
)  # fmt: skip
ZOO = ("mnist-relu", "mnist-leaky", "mnist-sigmoid", "mnist-dcgan")
_NOISE = ("uniform:", "gaussian:", "outliers:", "poisson", "negative-binomial:")
_NORMS = ("l2", "l1", "linf")
_MODEL_FILES = (".onnx", ".keras", ".h5", ".hdf5", ".pt", ".pth", ".safetensors", ".npz")


def methods(incomplete: str) -> list[str]:
    """Names of methods."""
    return [name for name in METHODS if name.startswith(incomplete)]


def noises(incomplete: str) -> list[str]:
    """How noise may begin."""
    return [name for name in _NOISE if name.startswith(incomplete)]


def norms(incomplete: str) -> list[str]:
    """Names of norms."""
    return [name for name in _NORMS if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Names of the zoo, model files and folders."""
    return [*(name for name in ZOO if name.startswith(incomplete)), *sorted(_paths(incomplete, _MODEL_FILES))]


def _paths(incomplete: str, endings: tuple[str, ...]) -> Iterator[str]:
    """Folders, and files that end so, whose path begins with the text."""
    folder, begun = os.path.split(incomplete)
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name.startswith(begun) and (begun or not entry.name.startswith(".")):
                    if entry.is_dir():
                        yield os.path.join(folder, entry.name, "")
                    elif entry.name.lower().endswith(endings):
                        yield os.path.join(folder, entry.name)
    except OSError:
        return
