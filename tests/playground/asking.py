"""Questions to the playground, and a digit as a visitor draws it."""

from __future__ import annotations

import http.client
import json
from itertools import pairwise
from typing import Any

import numpy as np

import unrelu
from unrelu.playground import PictureGenerator

# The strokes of a seven, as shares of the picture's width and height.
SEVEN = ((0.3, 0.28), (0.5, 0.24), (0.68, 0.28), (0.62, 0.45), (0.55, 0.6), (0.48, 0.8))


def seven(side: int = 28, radius: float = 1.25):
    """A seven in [0, 1], (side, side), drawn with a round brush."""
    points = side * np.array(SEVEN)
    grid = np.stack(np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5), axis=-1)
    picture = np.zeros((side, side))
    for a, b in pairwise(points):
        t = np.clip((grid - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        distance = np.linalg.norm(grid - a - t[..., None] * (b - a), axis=-1)
        picture = np.maximum(picture, np.clip(radius + 0.5 - distance, 0, 1))
    return picture


def question(generator: PictureGenerator, y: Any, **changes: Any) -> dict[str, Any]:
    pixels = generator.shape[1] * generator.shape[2]
    asked = {"generator": generator.name, "y": np.ravel(y).tolist(), "visible": [1] * pixels, "noise": None}
    return {**asked, "seconds": 10, **changes}


def colours() -> PictureGenerator:
    """A tiny generator of 8 x 8 pixels in three colours."""
    import torch
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 192), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8))
        )
    return PictureGenerator.of("colours", unrelu.from_torch(module, latent_shape=(3,)), scale="0,1")


def send(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and answer; a body that is no text is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        if body is not None and not isinstance(body, bytes | str):
            body = json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        content = response.read()
        kind = response.headers.get_content_type()
        return response.status, json.loads(content) if kind == "application/json" else content.decode()
    finally:
        connection.close()
