"""Exact fits of styled generators and of autoencoders' decoders: ``auto`` beside three runs of L-BFGS.

The generators have random weights and the structure of those that are published: StyleGAN2 (a mapping network,
modulated convolutions with demodulation, noise inputs, skip connections to RGB), inverted in Z, W and W+, and the
decoders of diffusers, ``AutoencoderKL`` and ``AutoencoderTiny``, at latents of 4 x 8 x 8.

Source: Karras et al., "Analyzing and improving the image quality of StyleGAN", CVPR (2020), section 2; Rombach et al.,
"High-resolution image synthesis with latent diffusion models", CVPR (2022), appendix E.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unrelu
from unrelu.runtime.streams import torch_stream
from unrelu_studies.kit.timing import one_thread, processor_seconds, timed

Array = npt.NDArray[np.float64]

GENERATORS = ("styled, Z", "styled, W", "styled, W+", "strongly styled, W", "KL decoder", "tiny decoder")
# How much styles change the scale of a channel, 1 + N(0, s^2): as training leaves them, and as StyleGAN2 begins. With
# the latter, three of four starts end in other local optima, and W+ has so many that no descent leads to the best.
_MODULATION, _STRONG = 0.3, 1.0
# The runs of L-BFGS, and the steps of each.
RUNS, STEPS = 3, 150
# Channels of the styled generator at 4, 8, 16 and 32 pixels, those of a quick look, and the size of w.
_CHANNELS, _QUICK_CHANNELS, _STYLE = (64, 64, 48, 32), (16, 12), 64
# Channels of a decoder from its latents up, each twice as large in pixels as the one before, and groups of a norm.
_WIDTHS, _QUICK_WIDTHS, _GROUPS = (64, 64, 32), (16, 8), 8
_LATENTS = (4, 8, 8)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose outputs are of unit variance again."""

    def __init__(self, n_in: int, n_out: int, kernel: int, style: int, demodulate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in, kernel, kernel))
        self.style = nn.Linear(style, n_in)
        self.bias = nn.Parameter(torch.empty(n_out, 1, 1))
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """The convolution of x, (B, n_in, h, h), by the styles w, (B, style)."""
        scale = 1 + self.style(w)
        x = F.conv2d(x * scale[:, :, None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            energy = scale.square() @ self.weight.square().sum(dim=(2, 3)).T
            x = x * (energy + 1e-8).rsqrt()[:, :, None, None]
        return x


class StyledBlock(nn.Module):
    """One resolution of StyleGAN2: modulated convolutions with noise inputs, and the skip connection to RGB."""

    def __init__(self, n_in: int, n_out: int, size: int, style: int, first: bool) -> None:
        super().__init__()
        sizes = [(n_in, n_out)] if first else [(n_in, n_out), (n_out, n_out)]
        self.convolutions = nn.ModuleList(ModulatedConv(a, b, 3, style, demodulate=True) for a, b in sizes)
        self.rgb = ModulatedConv(n_out, 3, 1, style, demodulate=False)
        self.noise: Tensor
        self.register_buffer("noise", torch.empty(len(sizes), 1, size, size))
        self.first = first

    def forward(self, x: Tensor, picture: Tensor, ws: Tensor) -> tuple[Tensor, Tensor]:
        """Features and picture at this resolution, of those at the last one and styles (B, s, style)."""
        if not self.first:
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
        for i, convolution in enumerate(self.convolutions):
            x = F.leaky_relu(convolution(x, ws[:, i]) + self.noise[i] + convolution.bias, 0.2) * 2**0.5
        rgb = self.rgb(x, ws[:, -1]) + self.rgb.bias
        return x, rgb + F.interpolate(picture, scale_factor=2, mode="bilinear")


class StyledGenerator(nn.Module):
    """A generator of StyleGAN2's kind.

    Args:
        codes: "Z": codes are inputs of the mapping network; "W": its outputs; "W+": one of them for every layer.
        channels: of the resolutions from 4 x 4 up.
        modulation: the standard deviation of styles.
        random: the stream of the weights.
    """

    def __init__(self, codes: str, channels: tuple[int, ...], modulation: float, random: torch.Generator) -> None:
        super().__init__()
        self.codes, k = codes, _STYLE
        self.mapping = nn.ModuleList(nn.Linear(k, k) for _ in range(4))
        self.constant = nn.Parameter(torch.empty(channels[0], 4, 4))
        pairs = zip((channels[0], *channels), channels, strict=False)
        blocks = [StyledBlock(a, b, 4 * 2**i, k, i == 0) for i, (a, b) in enumerate(pairs)]
        # One style for every convolution, and one for the last RGB.
        self.blocks, self.layers = nn.ModuleList(blocks), sum(len(block.convolutions) for block in blocks) + 1
        for name, tensor in self.state_dict().items():
            # Weights keep the variance of what goes through.
            deviation = 0.1 if name.endswith(("bias", "noise")) else 1.0
            if name.endswith("weight"):
                deviation = (tensor[0].numel() / (2 if name.startswith("mapping") else 1)) ** -0.5
            if name.endswith("style.weight"):
                deviation *= modulation
            nn.init.normal_(tensor, 0.0, deviation, generator=random)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of a code: one style, or one for every layer."""
        return (self.layers, _STYLE) if self.codes == "W+" else (_STYLE,)

    def mapped(self, z: Tensor) -> Tensor:
        """w, of z, (..., 64) both."""
        w = z * (z.square().mean(dim=-1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), 0.2)
        return w

    def forward(self, codes: Tensor) -> Tensor:
        """Pictures, (B, 3, h, h)."""
        w = self.mapped(codes) if self.codes == "Z" else codes
        ws = w if self.codes == "W+" else w[:, None].expand(-1, self.layers, -1)
        x, at = self.constant.expand(len(ws), -1, -1, -1), 0
        picture = torch.zeros(1, 3, 2, 2, dtype=x.dtype, device=x.device)
        for block in self.blocks:
            assert isinstance(block, StyledBlock)
            count = len(block.convolutions)
            x, picture = block(x, picture, ws[:, at : at + count + 1])
            at += count
        return picture

    def drawn(self, random: torch.Generator) -> Tensor:
        """A code as users have them: z ~ N(0, I), or what the mapping network makes of it, (1, *latent_shape)."""
        z = torch.randn(1, *self.latent_shape, generator=random)
        return z if self.codes == "Z" else self.mapped(z)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU and a convolution, twice, and what went in."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, n_in), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1),
            nn.GroupNorm(_GROUPS, n_out), nn.SiLU(), nn.Conv2d(n_out, n_out, 3, padding=1),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_in, h, h) to (B, n_out, h, h)."""
        y: Tensor = self.shortcut(x) + self.layers(x)
        return y


class PixelAttention(nn.Module):
    """Attention between all pixels, added to what went in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.out = nn.GroupNorm(_GROUPS, channels), nn.Linear(channels, channels)
        self.queries, self.keys, self.values = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, h) to the same."""
        rows = self.norm(x).flatten(2).transpose(1, 2)
        seen = F.scaled_dot_product_attention(self.queries(rows), self.keys(rows), self.values(rows))
        y: Tensor = x + self.out(seen).transpose(1, 2).reshape(x.shape)
        return y


def kl_decoder(widths: tuple[int, ...]) -> nn.Module:
    """The decoder of ``AutoencoderKL``: a middle with attention, blocks of three residual blocks, upsampling."""
    top = widths[0]
    modules = [nn.Conv2d(_LATENTS[0], top, 3, padding=1), ResidualBlock(top, top), PixelAttention(top)]
    modules.append(ResidualBlock(top, top))
    for i, (n_in, n_out) in enumerate(zip((top, *widths), widths, strict=False)):
        modules += [ResidualBlock(n_in if j == 0 else n_out, n_out) for j in range(3)]
        if i < len(widths) - 1:
            modules += [nn.Upsample(scale_factor=2), nn.Conv2d(n_out, n_out, 3, padding=1)]
    last = widths[-1]
    return nn.Sequential(*modules, nn.GroupNorm(_GROUPS, last), nn.SiLU(), nn.Conv2d(last, 3, 3, padding=1))


class TinyBlock(nn.Module):
    """Three convolutions with ReLUs, what went in, and a ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        pairs = ((nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.layers = nn.Sequential(*[module for pair in pairs for module in pair][:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, h) to the same."""
        return torch.relu(self.layers(x) + x)


class SoftClamp(nn.Module):
    """3 tanh(x / 3), by which ``AutoencoderTiny`` keeps its latents within (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return 3 * torch.tanh(x / 3)


def tiny_decoder(widths: tuple[int, ...]) -> nn.Module:
    """The decoder of ``AutoencoderTiny``: blocks of three convolutions with ReLUs, upsampling."""
    width = widths[0]
    modules = [SoftClamp(), nn.Conv2d(_LATENTS[0], width, 3, padding=1), nn.ReLU()]
    for _ in widths[1:]:
        modules += [TinyBlock(width) for _ in range(3)]
        modules += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return nn.Sequential(*modules, TinyBlock(width), nn.Conv2d(width, 3, 3, padding=1))


def _weighted(module: nn.Module, random: torch.Generator) -> nn.Module:
    """A decoder with weights that keep the variance of what goes through; its norms are as they begin."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.normal_(part.weight, 0.0, part.weight[0].numel() ** -0.5, generator=random)
            if part.bias is not None:
                nn.init.normal_(part.bias, 0.0, 0.1, generator=random)
    return module


def generator(name: str, quick: bool, seed: int) -> tuple[nn.Module, tuple[int, ...], Tensor]:
    """One of :data:`GENERATORS`, the shape of its codes, and a code as its users have them, (1, *shape)."""
    random = torch_stream("styled generators", seed, name)
    if "styled" in name:
        modulation = _STRONG if name.startswith("strongly") else _MODULATION
        styled = StyledGenerator(name.rpartition(" ")[2], _QUICK_CHANNELS if quick else _CHANNELS, modulation, random)
        module: nn.Module = styled.eval().requires_grad_(False)
        return module, styled.latent_shape, styled.drawn(random)
    make = kl_decoder if name.startswith("KL") else tiny_decoder
    module = _weighted(make(_QUICK_WIDTHS if quick else _WIDTHS), random).eval().requires_grad_(False)
    return module, _LATENTS, torch.randn(1, *_LATENTS, generator=random)


@contextmanager
def _subnormals_flushed() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def limited_memory(module: nn.Module, shape: tuple[int, ...], y: Array, seed: int) -> list[float]:
    """|G(z) - y|^2 where runs of PyTorch's L-BFGS with a strong Wolfe line search end, in single precision."""
    target, found = torch.tensor(y[None], dtype=torch.float32), []
    for run in range(RUNS):
        z = torch.randn(1, *shape, generator=torch_stream("styled, start", seed, run)).requires_grad_(True)
        steps = torch.optim.LBFGS([z], max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

        def misfit(z: Tensor = z, steps: torch.optim.Optimizer = steps) -> Tensor:
            steps.zero_grad()
            f: Tensor = (module(z) - target).square().sum()
            f.backward()  # type: ignore[no-untyped-call]
            return f

        with _subnormals_flushed():
            steps.step(misfit)  # type: ignore[no-untyped-call]
        found.append(float(misfit().detach()))
    return found


def rows(quick: bool, seed: int, names: tuple[str, ...] = GENERATORS) -> list[dict[str, Any]]:
    """A row for each generator: processor seconds and objectives, as a share of |y|^2, of both."""
    return [_row(name, quick, seed) for name in names]


def _row(name: str, quick: bool, seed: int) -> dict[str, Any]:
    module, shape, z = generator(name, quick, seed)
    with torch.no_grad():
        y = module.double()(z.double())[0].numpy()
    network, size = unrelu.from_torch(module, latent_shape=shape), float(np.square(y).sum())
    module.float()
    with one_thread():
        peers, peer_seconds = timed(partial(limited_memory, module, shape, y, seed), processor_seconds)
        first, first_seconds = timed(partial(unrelu.invert, network, y), processor_seconds)
        second, second_seconds = timed(partial(unrelu.invert, network, y, seed=1), processor_seconds)
    return {
        "generator": name,
        "latents": list(shape),
        "outputs": list(y.shape),
        "lbfgs": peer_seconds,
        "first": first_seconds,
        "second": second_seconds,
        "objective_lbfgs": [f / size for f in peers],
        "objective": [float(r.fun) / size for r in (first, second)],
        "status": [r.verdict.name for r in (first, second)],
    }
