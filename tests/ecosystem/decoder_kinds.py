"""Small decoders of the kinds that people have, with random weights: what docs/decoders.md loads in a line each.

A builder gives the names that its line uses, and the outputs of a batch of codes by the decoder itself.
"""

from __future__ import annotations

import warnings
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch import Tensor, nn

from tests.opaque.test_torch_callables import Two
from tests.opaque_modules import Attention, Residual, Skip
from unrelu.opaque.torch_callables import frozen

Case = tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]
BUILDERS: dict[str, Callable[[Path], Case]] = {}


def builder(name: str) -> Callable[[Callable[[Path], Case]], Callable[[Path], Case]]:
    def added(function: Callable[[Path], Case]) -> Callable[[Path], Case]:
        def seeded(folder: Path) -> Case:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                return function(folder)

        BUILDERS[name] = seeded
        return seeded

    return added


def seq(*parts: nn.Module) -> nn.Sequential:
    """In evaluation mode, with batch normalisations that do something."""
    module = nn.Sequential(*parts).eval()
    for m in module.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(m.running_var, 0.5, 1.5)
            nn.init.normal_(m.running_mean, std=0.1)
    return module


def of(
    module: nn.Module, shape: Any = None, run: Callable[[Any, Tensor], Tensor] = lambda decoder, z: decoder(z),
    dtype: torch.dtype = torch.float64, **names: Any,
) -> Case:  # fmt: skip
    """The module as ``decoder``, and what ``run`` makes of it and codes, in double precision or its own."""

    def outputs(z: np.ndarray) -> np.ndarray:
        codes = torch.from_numpy(z).to(dtype).reshape(len(z), *(shape or z.shape[1:]))
        with torch.no_grad():
            return run(frozen(module, dtype, torch.device("cpu")), codes).double().numpy()

    return {"decoder": module, **names}, outputs


def mlp(k: int = 4, last: nn.Module | None = None) -> nn.Sequential:
    return seq(nn.Linear(k, 24), nn.ReLU(), nn.Linear(24, 40), last or nn.Sigmoid())


# --- residual ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block of a residual GAN, with upsampling on both ways."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.interpolate(F.relu(self.norm(x)), scale_factor=2))
        return F.interpolate(x, scale_factor=2) + self.second(F.relu(h))


class Gated(nn.Module):
    """A residual network of gated units, as emulators have."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gate, self.leave = nn.Linear(4, 16), nn.Linear(16, 32), nn.Linear(16, 40)

    def forward(self, z: Tensor) -> Tensor:
        h = self.enter(z)
        return self.leave(F.layer_norm(h + F.glu(self.gate(h)), (16,)))


# --- structured output ------------------------------------------------------------------------------------------------


@builder("diffusers AutoencoderKL")
def kl(folder: Path) -> Case:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2, sample_size=4).eval()
    return of(model, (2, 2, 2), lambda m, z: m.decode(z).sample, model=model)


@builder("diffusers AutoencoderTiny")
def tiny(folder: Path) -> Case:
    from diffusers import AutoencoderTiny

    model = AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=1,
    ).eval()  # fmt: skip
    return of(model, (1, 3, 3), lambda m, z: m.decode(z).sample, model=model)


@builder("pythae VAE")
def pythae(folder: Path) -> Case:
    from pythae.models import VAE, VAEConfig

    model = VAE(VAEConfig(input_dim=(1, 6, 6), latent_dim=4)).eval()
    return of(model.decoder, run=lambda m, z: m(z)["reconstruction"], model=model)


# --- downloaded: folders, state dicts, classes, styles ----------------------------------------------------------------


@builder("a folder of diffusers: `AutoencoderKL`, `AutoencoderTiny`")
def kl_folder(folder: Path) -> Case:
    from diffusers import AutoModel

    names, outputs = kl(folder)
    names["model"].save_pretrained(folder)
    return {"AutoModel": AutoModel, "folder": str(folder)}, outputs


@builder("the same, for latents as a pipeline scales them, after `vae.double()`")
def kl_scaled(folder: Path) -> Case:
    names, outputs = kl(folder)
    vae = names["model"].double()
    return {"vae": vae}, lambda z: outputs(z / vae.config.scaling_factor)


@builder("a folder of pythae")
def pythae_folder(folder: Path) -> Case:
    from pythae.models import AutoModel

    names, outputs = pythae(folder)
    names["model"].save(str(folder))
    return {"AutoModel": AutoModel, "folder": str(folder)}, outputs


@builder("its `model.pt` alone, with the default decoder")
def pythae_file(folder: Path) -> Case:
    _, outputs = pythae_folder(folder)
    return {"path": folder / "model.pt"}, lambda z: outputs(z).reshape(len(z), -1)


@builder("a state dict of a DCGAN, after `generator.load_state_dict(torch.load(path, weights_only=True))`")
def dcgan(folder: Path) -> Case:
    def fresh() -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(100, 16, 4, 1, 0, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    generator, (names, outputs) = fresh(), of(fresh().eval(), (100, 1, 1))
    torch.save(names["decoder"].state_dict(), folder / "generator.pth")
    generator.load_state_dict(torch.load(folder / "generator.pth", weights_only=True))
    return {"generator": generator}, outputs


@builder("a class-conditional generator, of class 3")
def class_conditional(folder: Path) -> Case:
    names, outputs = given(Labelled(), label=torch.tensor([3]))
    return {"generator": names["decoder"]}, outputs


class Styled(nn.Module):
    """A StyleGAN of vectors: a mapping network, and a synthesis network with one style for each of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping = seq(nn.Linear(4, 8), nn.LeakyReLU(0.2), nn.Linear(8, 8))
        self.synthesis = Synthesis()


class Synthesis(nn.Module):
    """Three layers, each with a style, (B, 3, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(12))
        self.styles = nn.ModuleList(nn.Linear(8, 12) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(12, n) for n in (12, 12, 80))

    def forward(self, ws: Tensor) -> Tensor:
        x = self.constant
        for i, (style, layer) in enumerate(zip(self.styles, self.layers, strict=True)):
            x = F.leaky_relu(layer(x * (1 + style(ws[:, i]))), 0.2)
        return x


@builder("a StyleGAN in W")
def styled(folder: Path) -> Case:
    generator = Styled().eval()
    return of(
        generator, run=lambda m, w: m.synthesis(w[:, None].repeat(1, 3, 1)), generator=generator, layers=3
    )  # fmt: skip


@builder("a StyleGAN in W+, from standardised styles")
def styled_plus(folder: Path) -> Case:
    generator = Styled().eval()
    w = generator.mapping(torch.randn(10_000, 4)).detach()
    mean, std = w.mean(0), w.std(0)
    names = {"generator": generator, "layers": 3, "mean": mean, "std": std}
    return of(generator, (3, 8), lambda m, t: m.synthesis(mean.double() + std.double() * t), **names)


class Pair(nn.Module):
    """Mean and variance of the pixels."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        super().__init__()
        self.mean, self.variance, self.kind = mlp(), mlp(4, nn.Softplus()), kind

    def forward(self, z: Tensor) -> Any:
        return self.kind(self.mean(z), self.variance(z))


@dataclass
class Decoded:
    mean: Tensor
    variance: Tensor


# --- further inputs ---------------------------------------------------------------------------------------------------


class Labelled(nn.Module):
    """A class-conditional generator, which modulates by an embedding of the label."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Embedding(10, 24), nn.Linear(4, 24), nn.Linear(24, 40)

    def forward(self, label: Tensor, z: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(z)) * (1 + self.table(label)))


class Timed(nn.Module):
    """A network of the code at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.time, self.last = nn.Linear(4, 24), nn.Linear(1, 24), nn.Linear(24, 40)

    def forward(self, z: Tensor, t: float, scale: Tensor) -> Tensor:
        return self.last(F.softplus(self.first(z) + self.time(torch.full_like(z[:, :1], t)))) * scale


class Coordinates(nn.Module):
    """An implicit decoder, evaluated on a grid that is the same for all codes."""

    def __init__(self) -> None:
        super().__init__()
        self.main = mlp(6)

    def forward(self, z: Tensor, grid: Tensor) -> Tensor:
        pairs = torch.cat([z[:, None].expand(-1, grid.size(-2), -1), grid.expand(z.shape[0], -1, -1)], 2)
        return self.main(pairs)


class Noisy(nn.Module):
    """A synthesis network with a noise input, which is drawn anew in each forward pass unless it is passed."""

    def __init__(self) -> None:
        super().__init__()
        self.style, self.conv = nn.Linear(4, 48), nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        x = self.style(z).view(z.shape[0], 3, 4, 4)
        noise = torch.randn(x.shape[0], 1, 4, 4, device=x.device) if noise is None else noise
        return F.leaky_relu(self.conv(x + 0.3 * noise), 0.2)


def given(module: nn.Module, **inputs: Any) -> Case:
    """A module with inputs that are held fixed, and the same for all codes."""
    held = {n: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in inputs.items()}
    return of(module.eval(), None, lambda m, z: torch.cat([m(z=row[None], **held) for row in z]), **inputs)


# --- torch.jit, torch.export, ONNX ------------------------------------------------------------------------------------


def quiet(function: Callable[[], Any]) -> Any:
    """Both are deprecated, and say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


def exported(module: nn.Module, shape: tuple[int, ...], **options: Any) -> torch.export.ExportedProgram:
    return quiet(lambda: torch.export.export(module, (torch.zeros(1, *shape),), **options))


@builder("a scripted module")
def scripted(folder: Path) -> Case:
    _, outputs = of(module := mlp())
    return {"decoder": quiet(lambda: torch.jit.script(module))}, outputs


@builder("a traced module, from its file")
def traced(folder: Path) -> Case:
    _, outputs = of(module := Residual(4, 16, 40, plain=True).eval())
    path = folder / "decoder.pt"
    quiet(lambda: torch.jit.trace(module, torch.zeros(2, 4)).save(str(path)))
    return {"path": str(path)}, outputs


@builder("an ExportedProgram, or its `program.module()`")
def program(folder: Path) -> Case:
    _, outputs = of(module := mlp())
    return {"program": exported(module, (4,))}, outputs


@builder("a .pt2 file")
def program_file(folder: Path) -> Case:
    _, outputs = of(module := seq(nn.Linear(4, 32), nn.Unflatten(1, (2, 4, 4)), Block(2), nn.Conv2d(2, 1, 1)))
    quiet(lambda: torch.export.save(exported(module, (4,)), folder / "decoder.pt2"))
    return {"path": folder / "decoder.pt2"}, outputs


@builder("ONNX with residual blocks")
def onnx_file(folder: Path) -> Case:
    _, outputs = of(module := Residual(4, 16, 40, plain=True).eval())
    options = {"dynamo": False, "input_names": ["z"], "dynamic_axes": {"z": {0: "batch"}}}
    quiet(lambda: torch.onnx.export(module, (torch.zeros(1, 4),), folder / "decoder.onnx", **options))
    return {"path": folder / "decoder.onnx"}, outputs


# --- Keras' and other layouts -----------------------------------------------------------------------------------------

# Written by ``model.export`` of Keras 3.15 with the torch backend: 3 -> 12 (ReLU) -> 24 (sigmoid).
KERAS = Path(__file__).parent / "data" / "keras.onnx"
WEIGHTS = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(3, 12), (12,), (12, 24), (24,)])]


def two_layers(weights: Sequence[np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The outputs of a ReLU and a sigmoid layer with kernels (inputs, outputs)."""
    first, a, last, b = (np.asarray(w, float) for w in weights)
    return lambda z: 1 / (1 + np.exp(-(np.maximum(z @ first + a, 0) @ last + b)))


@builder('Keras 3, by `model.export(path, format="onnx")`')
def keras(folder: Path) -> Case:
    graph = onnx.load(KERAS).graph
    return {"path": KERAS}, two_layers([onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer])


@builder("Keras weights, `{w.path: w.numpy() for w in model.weights}`")
def keras_weights(folder: Path) -> Case:
    paths = (f"{layer}/{name}" for layer in ("dense", "dense_1") for name in ("kernel", "bias"))
    return {"weights": dict(zip(paths, WEIGHTS, strict=True))}, two_layers(WEIGHTS)


@builder("Flax parameters")
def flax(folder: Path) -> Case:
    params = {f"Dense_{i}": dict(zip(("kernel", "bias"), WEIGHTS[2 * i : 2 * i + 2], strict=True)) for i in range(2)}
    return {"params": {"params": params}}, two_layers(WEIGHTS)


@builder("weights `W0`, `b0`, `W1`, `b1` in a .npz")
def numbered(folder: Path) -> Case:
    arrays = {f"{'Wb'[i % 2]}{i // 2}": w.T for i, w in enumerate(WEIGHTS)}
    np.savez(folder / "decoder.npz", **arrays)
    return {"path": folder / "decoder.npz"}, two_layers(WEIGHTS)


@builder("a whole VAE's .safetensors")
def safetensors(folder: Path) -> Case:
    _, outputs = of(module := mlp(3))
    state = {f"decoder.{name}": value.numpy() for name, value in module.state_dict().items()}
    save_file({"encoder.weight": np.ones((3, 40), np.float32), **state}, folder / "vae.safetensors")
    return {"path": folder / "vae.safetensors"}, outputs


# --- half precision ---------------------------------------------------------------------------------------------------


def half(module: nn.Module, dtype: torch.dtype) -> Case:
    """The module, and its own outputs in its own precision."""
    return of(module.eval().to(dtype), dtype=dtype)


# --- modules alone ----------------------------------------------------------------------------------------------------

PLAIN: dict[str, Callable[[], Case]] = {
    "VAE decoder, sigmoid output": lambda: of(mlp()),
    "tanh output": lambda: of(mlp(5, nn.Tanh())),
    "LeakyReLU and batch normalisation": lambda: of(seq(
        nn.Linear(4, 24), nn.BatchNorm1d(24), nn.LeakyReLU(0.2), nn.Linear(24, 40),
    )),
    "PReLU, weight normalisation, dropout": lambda: of(seq(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 24)), nn.PReLU(), nn.Dropout(), nn.Linear(24, 40),
    )),
    "a lambda over a decoder": lambda: of(mlp()),
    "DCGAN": lambda: of(seq(
        nn.ConvTranspose2d(6, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, 2, 1, bias=False), nn.Tanh(),
    ), (6, 1, 1)),
    "convolutional VAE": lambda: of(seq(
        nn.Linear(4, 32), nn.ReLU(), nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 4, 3, 2, 1, 1), nn.ReLU(),
        nn.Conv2d(4, 1, 3, padding=1), nn.Sigmoid(),
    )),
    "upsampling and convolutions": lambda: of(seq(
        nn.Linear(4, 32), nn.Unflatten(1, (2, 4, 4)), nn.Upsample(scale_factor=2), nn.Conv2d(2, 4, 3, padding=1),
        nn.LeakyReLU(0.1), nn.Conv2d(4, 3, 3, padding=1),
    )),
    "pixel shuffle": lambda: of(seq(
        nn.Linear(4, 32), nn.ReLU(), nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 8, 3, padding=1), nn.PixelShuffle(2),
    )),
    "one-dimensional signals": lambda: of(seq(
        nn.Linear(4, 24), nn.Unflatten(1, (3, 8)), nn.ReLU(), nn.ConvTranspose1d(3, 2, 4, 2, 1), nn.ReLU(),
        nn.Conv1d(2, 1, 5, padding=2),
    )),
    "residual multilayer perceptron": lambda: of(Residual(4, 16, 40, plain=True).eval()),
    "residual GAN": lambda: of(seq(nn.Linear(4, 32), nn.Unflatten(1, (2, 4, 4)), Block(2), nn.Conv2d(2, 1, 1))),
    "image sums over resolutions": lambda: of(Skip(6).eval(), (6, 1, 1)),
    "transformer with cross-attention": lambda: of(Attention(4).eval()),
    "gated units and layer normalisation": lambda: of(Gated().eval()),
    "a tuple of mean and variance": lambda: of(Pair(namedtuple("Moments", "mean variance")), run=lambda m, z: m(z)[0]),
    "a data class": lambda: of(Pair(Decoded), run=lambda m, z: m(z).mean),
    "conditional VAE": lambda: given(Two(), c=torch.eye(3)[[1]]),
    "a label, before the code": lambda: given(Labelled(), label=torch.tensor([7])),
    "a time and a scale": lambda: given(Timed(), t=0.3, scale=torch.linspace(1, 2, 40)[None]),
    "coordinates of an implicit decoder": lambda: given(Coordinates(), grid=torch.rand(1, 5, 2)),
    "noise inputs of a StyleGAN": lambda: given(Noisy(), noise=torch.randn(1, 1, 4, 4)),
    "multilayer perceptron, half": lambda: half(mlp(), torch.float16),
    "multilayer perceptron, bfloat16": lambda: half(mlp(), torch.bfloat16),
    "convolutional, half": lambda: half(seq(
        nn.Linear(4, 32), nn.ReLU(), nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 4, 4, 2, 1),
    ), torch.float16),
    "residual, bfloat16": lambda: half(Residual(4, 16, 40, plain=True), torch.bfloat16),
    "a lambda over a half decoder": lambda: half(mlp(4, nn.Tanh()), torch.float16),
}  # fmt: skip
for name, make in PLAIN.items():
    builder(name)(lambda folder, make=make: make())
