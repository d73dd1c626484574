"""A page on this machine: draw a picture, hide parts of it, and see the nearest picture that a generator draws.

Gradio serves it on 127.0.0.1 only. It is imported when a page is made, and asks nothing of any other machine.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from unrelu import zoo
from unrelu._invert import invert
from unrelu.display.pixels import HIDDEN, Shape, drawn_shape, values
from unrelu.errors import HostError, InputError, MissingPackageError, UnreluError
from unrelu.measurements.operator_arguments import Mask
from unrelu.measurements.picture_scale import Scaling, scale_of
from unrelu.models.generator import Generator
from unrelu.runtime.array_types import Array, Flags
from unrelu.runtime.streams import stream

ADDRESS = "127.0.0.1"
# The side of the canvas in screen pixels, and the largest side of a picture in its own.
_CANVAS, _LARGEST_SIDE = 336, 256
# A stroke hides if it differs from the colour of hiding by at most the first number. A background is the picture that
# was put there if it differs from that by at most the second one.
_SAME_COLOUR, _SAME_PICTURE = 0.125, 0.01
_BEGIN = "Draw a picture in the middle of the black square, or choose one."
_HELP = "Colours of the brush: **white** draws, **black** erases, **light blue** hides. The eraser takes strokes away."
_CSS = "#verdict img {height: auto !important; width: min(9.5rem, 24vw)} #verdict th + th {font-weight: normal}"


@dataclass(frozen=True, eq=False)
class PictureGenerator:
    """A generator whose outputs are pictures from black, ``low``, to white, ``high``."""

    name: str
    network: Generator
    shape: Shape  # (channels, height, width), with 1 or 3 channels
    low: float
    high: float
    digits: Array | None = None  # real pictures that it was not trained on, (B, ...)

    @classmethod
    def of(cls, name: str, network: Generator, scale: str | None = None, digits: Any = None) -> PictureGenerator:
        """Lay out a generator's outputs as pictures; ``scale`` "LOW,HIGH" are the values of black and white."""
        shape = drawn_shape(network.output_shape)
        if shape is None or max(shape[1:]) > _LARGEST_SIDE:
            raise InputError(
                f"{name} puts out {network.output_shape}; the playground takes (H, W), (1, H, W), (3, H, W) and flat "
                f"squares such as (784,), of up to {_LARGEST_SIDE} x {_LARGEST_SIDE} pixels; use unrelu.invert instead"
            )
        low, high = Scaling.parse(scale).ends or scale_of(network).ends or (0.0, 1.0)
        return cls(name, network, shape, low, high, digits)

    def picture(self, kind: str, index: int) -> Array:
        """Draw G(z) of a random code, or take a real "digit" if there are some; from black 0 to white 1, (C, H, W)."""
        draws = stream("playground, picture", self.name, index)
        if kind == "digit" and self.digits is not None:
            chosen: Array = self.digits[draws.integers(len(self.digits))]
        else:
            chosen = self.network(draws.standard_normal(self.network.latent_dim))
        return (chosen.reshape(self.shape) - self.low) / (self.high - self.low)

    def canvas(self, picture: Array) -> Any:
        """Make a picture from 0 to 1 an image of the size of the canvas."""
        return Image.fromarray(values(picture, self.shape, 0, 1)).resize((_CANVAS, _CANVAS), Image.Resampling.NEAREST)

    def read(self, drawn: Any, base: Any) -> tuple[Array, Flags] | None:
        """Read a background and a layer of strokes: a picture from 0 to 1 and its visible pixels; None if it is empty.

        ``base`` was put into the background; its values are kept where there is no stroke.
        """

        def small(image: Any) -> Array:
            grey = image.convert("L" if self.shape[0] == 1 else "RGB")
            shrunk = np.asarray(grey.resize(self.shape[:0:-1], Image.Resampling.BOX), dtype=np.float64)
            return np.moveaxis(np.atleast_3d(shrunk), -1, 0) / 255

        blank = Image.new("RGBA", (_CANVAS, _CANVAS))
        images = (None, None) if drawn is None else (drawn["background"], next(iter(drawn["layers"]), None))
        background, strokes = (blank if image is None else image.resize(blank.size) for image in images)
        *colours, ink = np.moveaxis(np.asarray(strokes) / 255, -1, 0)
        if images[0] is None and not ink.any():
            return None
        below = Image.alpha_composite(Image.new("RGBA", blank.size, "black"), background)
        shown, covered = small(below), small(Image.alpha_composite(below, strokes))
        if np.shape(base) == self.shape and np.abs(shown - small(self.canvas(base))).max() <= _SAME_PICTURE:
            shown = base
        blue = np.abs(np.array(colours) - np.array(to_rgb(HIDDEN))[:, None, None]).max(axis=0) <= _SAME_COLOUR
        touched, hidden = (small(Image.fromarray(flags)).max(axis=0) > 0 for flags in (ink > 0, blue & (ink > 0)))
        return np.where(touched, covered, shown), ~hidden

    def answer(self, unit: Array, visible: Flags, kind: str, level: float, **options: Any) -> str:
        """Invert a picture from 0 to 1 by its visible pixels; return the result as a notebook shows it, in HTML.

        The noise is "unknown", "gaussian" or "uniform", of ``level`` times the range from black to white.
        """
        if not visible.any():
            return "Everything is hidden: take the eraser to reveal a part of the picture."
        mask, span = np.broadcast_to(visible, self.shape).reshape(self.network.output_shape), self.high - self.low
        noise = None if kind == "unknown" else f"{kind}:{level * span}"
        y = (self.low + span * unit).reshape(mask.shape)
        operator = None if mask.all() else Mask(mask)
        try:
            return invert(self.network, y, operator=operator, noise=noise, scale="none", **options)._repr_html_()
        except UnreluError as error:
            return escape(str(error))


def bundled() -> list[PictureGenerator]:
    """Load the generators of the zoo."""
    return [PictureGenerator.of(name, zoo.load(name), digits=zoo.observations(name)) for name in zoo.names()]


def page(generators: Sequence[PictureGenerator], stopped: threading.Event) -> Any:
    """Build the page, as Gradio's Blocks; ``stopped`` ends its searches."""
    try:
        import gradio as gr  # noqa: PLC0415 -- an optional package, which takes seconds to import
    except ImportError as error:
        raise MissingPackageError("the playground needs Gradio: pip install gradio") from error
    known = {generator.name: generator for generator in generators}

    def ask(name: str, drawn: Any, base: Any, swap: bool, added: float, kind: str, level: float, seconds: float) -> str:
        if (found := known[name].read(drawn, base)) is None:
            return _BEGIN
        unit = 1 - found[0] if swap else found[0]
        draws = stream("playground, noise")
        noise = draws.uniform(-1, 1, unit.shape) if kind == "uniform" else draws.standard_normal(unit.shape)
        ends: dict[str, Any] = {"time_limit": seconds, "callback": lambda _: stopped.is_set()}
        return known[name].answer(unit + added * noise, found[1], kind, level, **ends)

    def choose(kind: str, name: str, index: int) -> tuple[Any, Array, int]:
        base = known[name].picture(kind, index)
        return known[name].canvas(base), base, index + 1

    with gr.Blocks(analytics_enabled=False, title="unrelu playground") as blocks, gr.Row():
        index, base = gr.State(0), gr.State(None)
        with gr.Column(min_width=340):
            name = gr.Dropdown(list(known), label="Generator")
            gr.Markdown(_HELP)
            drawn = gr.ImageEditor(
                show_label=False, type="pil", format="png", sources=("upload", "clipboard"), layers=False,
                brush=gr.Brush(24, ["#ffffff", "#000000", HIDDEN], "#ffffff"), eraser=gr.Eraser(40), buttons=[],
                transforms=(), canvas_size=(_CANVAS, _CANVAS), fixed_canvas=True, height=_CANVAS + 80,
            )  # fmt: skip
            with gr.Row():
                buttons = {"sample": gr.Button("Let it draw one"), "digit": gr.Button("A real digit")}
            swap = gr.Checkbox(label="Swap black and white")
        with gr.Column(min_width=340):
            verdict = gr.HTML(_BEGIN, elem_id="verdict")
            added = gr.Slider(0, 0.5, 0, step=0.01, label="Noise to add, of the range from black to white")
            kind = gr.Radio(["unknown", "gaussian", "uniform"], value="gaussian", label="Noise that is stated")
            level = gr.Slider(0.01, 0.5, 0.2, step=0.01, label="Its standard deviation, or largest error if uniform")
            seconds = gr.Slider(1, 10, 1, step=1, label="Seconds of a search")
        asked: list[Any] = [name, drawn, base, swap, added, kind, level, seconds]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on([control.change for control in asked], ask, asked, verdict, trigger_mode="always_last", **quiet)
        for what, button in buttons.items():
            button.click(partial(choose, what), [name, index], [drawn, base, index], **quiet)
    return blocks


@contextmanager
def serving(generators: Sequence[PictureGenerator], port: int = 0) -> Iterator[str]:
    """Serve the page on 127.0.0.1, at any free port if it is 0; yield its address."""
    try:
        with socket.create_server((ADDRESS, port)) as free:
            port = free.getsockname()[1]
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise HostError(f"port {port} of {ADDRESS} cannot be opened: {why}; pass --port 0") from error
    stopped = threading.Event()
    with tempfile.TemporaryDirectory(prefix="unrelu-playground-") as folder:
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder)
        blocks = page(generators, stopped)
        from starlette.middleware import Middleware  # noqa: PLC0415 -- comes with Gradio
        from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: PLC0415

        named = Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"])
        try:
            blocks.launch(
                server_name=ADDRESS, server_port=port, share=False, prevent_thread_lock=True, quiet=True, css=_CSS,
                ssr_mode=False, footer_links=[], max_file_size="20mb", app_kwargs={"middleware": [named]},
            )  # fmt: skip
            yield f"http://{ADDRESS}:{port}/"
        finally:
            stopped.set()
            blocks.close(verbose=False)
