"""Decoders as people train them, by name: to tune a search and its confidence on, and others to report on.

A search that is right on plain VAEs may be wrong on these: weight decay and dropout leave latent coordinates that do
little, a strong KL term collapses some of them, a LeakyReLU of slope .01 is a ReLU but for rounding, and an output
activation saturates. All are trained here in seconds, from data that scikit-learn ships or that is made; the same seed
gives the same weights on one machine. Random nets are among them, as what nobody trained.

Nothing is tuned on :data:`REPORT`: its seeds, widths, regularisers and data sets are others than those of
:data:`TUNE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

from unrelu import zoo
from unrelu.loaders import from_arrays, from_torch
from unrelu.models.network import Network
from unrelu.runtime.array_types import Array
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream, torch_stream
from unrelu_studies.kit.random_instances import sizes_of

# Observations of each data set that are held out, and how many a made one has.
HELD_OUT, MADE = 360, 2000
# Every data set has as many entries as a digit of 8 x 8 pixels; pixels of a patch's side.
POINTS, SIDE = 64, 8
# The autoencoder without a KL term keeps its codes near N(0, I) by this weight of |z|^2.
_CODE_WEIGHT = 1e-3
_BATCH, _LEARNING_RATE = 64, 2e-3
# Units of the encoder's hidden layer.
_ENCODER = 128


@dataclass(frozen=True)
class TrainedFamily:
    """A decoder trained with an encoder by Adam: |x - G(z)|^2 plus ``kl`` times the KL divergence from N(0, I).

    Attributes:
        sizes: k and the widths of hidden layers; of a convolutional one k and the channels.
        seed: of weights, batches, dropout and codes.
        data: one of :data:`DATA_SETS`.
        activation, output: of hidden layers and of the last one.
        decay: weight decay, of Adam, on all parameters.
        dropout: after every hidden activation.
        kl: weight of the KL divergence; 0 trains an autoencoder without it.
        convolutional: transposed convolutions of stride 2, from 2 x 2 to 8 x 8 pixels.
        epochs: over the training data.
    """

    sizes: tuple[int, ...]
    seed: int
    data: str = "digits"
    activation: str = "relu"
    output: str = "identity"
    decay: float = 0.0
    dropout: float = 0.0
    kl: float = 0.2
    convolutional: bool = False
    epochs: int = 60

    def build(self) -> Network:
        """Train it; the same weights each time on one machine."""
        with computing(one_thread=True), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(torch_stream("trained families", self.seed).get_state())
            x = torch.tensor(self._in_range(training_data(self.data)), dtype=torch.float32)
            decoder = self._decoder(x.shape[1])
            self._train(decoder, x)
        return _as_network(decoder)

    def held_out(self) -> Array:
        """Observations of its kind that it was not trained on, (B, n), in the range of its outputs."""
        return self._in_range(held_out_data(self.data))

    def _in_range(self, x: Array) -> Array:
        """Data between 0 and 1 as the output activation has them."""
        return 2 * x - 1 if self.output == "tanh" else x

    def _decoder(self, n: int) -> nn.Module:
        modules: list[nn.Module] = []
        if self.convolutional:
            k, *channels = self.sizes
            modules += [nn.Linear(k, 4 * channels[0]), *self._hidden(), nn.Unflatten(1, (channels[0], 2, 2))]
            for i, (a, b) in enumerate(pairwise((*channels, 1))):
                modules += [*(self._hidden() if i else []), nn.ConvTranspose2d(a, b, 4, stride=2, padding=1)]
        else:
            for i, (a, b) in enumerate(pairwise((*self.sizes, n))):
                modules += [*(self._hidden() if i else []), nn.Linear(a, b)]
        return nn.Sequential(*modules, *([_module(self.output)] if self.output != "identity" else []))

    def _hidden(self) -> list[nn.Module]:
        return [_module(self.activation), *([nn.Dropout(self.dropout)] if self.dropout else [])]

    def _train(self, decoder: nn.Module, x: Tensor) -> None:
        encoder = nn.Sequential(nn.Linear(x.shape[1], _ENCODER), nn.ReLU(), nn.Linear(_ENCODER, 2 * self.sizes[0]))
        parameters = [*decoder.parameters(), *encoder.parameters()]
        adam = torch.optim.Adam(parameters, lr=_LEARNING_RATE, weight_decay=self.decay)
        for _ in range(self.epochs):
            for batch in torch.split(torch.randperm(len(x)), _BATCH):
                mean, log_variance = encoder(x[batch]).chunk(2, dim=1)
                if self.kl:
                    z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
                    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2
                    penalty = self.kl * divergence
                else:
                    z, penalty = mean, _CODE_WEIGHT * mean.square().sum(dim=1)
                misfit = (decoder(z).reshape(len(z), -1) - x[batch]).square().sum(dim=1)
                adam.zero_grad()
                (misfit + penalty).mean().backward()
                adam.step()
        decoder.eval()


@dataclass(frozen=True)
class RandomFamily:
    """Weights N(0, 2 / n_{i-1}), biases of ``bias`` times N(0, 1), and an identity at the end.

    Attributes:
        sizes: k, n_1, ..., n_d.
    """

    sizes: tuple[int, ...]
    seed: int
    activation: str = "relu"
    bias: float = 0.0

    def build(self) -> Network:
        """Draw it."""
        rng = stream("random families", self.seed)
        weights = [rng.standard_normal((b, a)) * np.sqrt(2 / a) for a, b in pairwise(self.sizes)]
        biases = [self.bias * rng.standard_normal(b) for b in self.sizes[1:]]
        return from_arrays(weights, biases, activation=[self.activation] * (len(weights) - 1) + ["identity"])


Family = TrainedFamily | RandomFamily


def _as_network(decoder: nn.Module) -> Network:
    network = from_torch(decoder)
    assert isinstance(network, Network)
    return network


def _module(activation: str) -> nn.Module:
    name, _, slope = activation.partition(":")
    if name == "leaky_relu":
        return nn.LeakyReLU(float(slope))
    modules: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
    }  # fmt: skip
    return modules[name]()


# --- data sets --------------------------------------------------------------------------------------------------------


def _digits(low: int = 0, high: int = 9) -> Array:
    digits = load_digits()
    chosen = (digits.target >= low) & (digits.target <= high)
    return np.asarray(digits.data[chosen] / 16)


def _spectra() -> Array:
    """Sums of three lines of random places, widths and heights."""
    rng = stream("families, spectra")
    at = np.linspace(0, 1, POINTS)
    place, width = rng.uniform(0.1, 0.9, (MADE, 3, 1)), rng.uniform(0.03, 0.12, (MADE, 3, 1))
    height = rng.uniform(0.2, 1.0, (MADE, 3, 1))
    x = (height * np.exp(-(((at - place) / width) ** 2) / 2)).sum(axis=1)
    return np.asarray(x / x.max())


def _decays() -> Array:
    """Damped oscillations of random frequency, phase and decay, between 0 and 1."""
    rng = stream("families, decays")
    at = np.linspace(0, 1, POINTS)
    frequency, phase, rate = (rng.uniform(a, b, (MADE, 1)) for a, b in ((1, 5), (0, 2 * np.pi), (0.5, 5)))
    return np.asarray(0.5 + 0.5 * np.exp(-rate * at) * np.cos(2 * np.pi * frequency * at + phase))


def _patches() -> Array:
    """Grey patches of the two photographs that scikit-learn ships, at a quarter of their resolution."""
    rng = stream("families, patches")
    patches = []
    for picture in load_sample_images().images:
        grey = picture.mean(axis=2) / 255
        grey = grey[: grey.shape[0] // 4 * 4, : grey.shape[1] // 4 * 4]
        small = grey.reshape(grey.shape[0] // 4, 4, grey.shape[1] // 4, 4).mean(axis=(1, 3))
        rows, columns = (size - SIDE + 1 for size in small.shape)
        for place in rng.permutation(rows * columns)[: MADE // 2]:
            i, j = divmod(int(place), columns)
            patches.append(small[i : i + SIDE, j : j + SIDE].ravel())
    return np.array(patches)


DATA_SETS = {
    "digits": _digits,
    "digits 0 to 4": lambda: _digits(0, 4),
    "digits 5 to 9": lambda: _digits(5, 9),
    "spectra": _spectra,
    "decays": _decays,
    "patches": _patches,
}


@cache
def _shuffled(name: str) -> Array:
    x = DATA_SETS[name]()
    return np.asarray(x[stream("families, held out", name).permutation(len(x))])


def training_data(name: str) -> Array:
    """Of a data set, what decoders are trained on, (B, n)."""
    return _shuffled(name)[HELD_OUT:]


def held_out_data(name: str) -> Array:
    """What they are not, (:data:`HELD_OUT`, n)."""
    return _shuffled(name)[:HELD_OUT]


# --- the families -----------------------------------------------------------------------------------------------------

TUNE: dict[str, Family] = {
    "weight decay": TrainedFamily((10, 40, 80), 770003, decay=1e-3),
    "dropout": TrainedFamily((10, 40, 80), 770004, dropout=0.3),
    "dropout .5": TrainedFamily((10, 40, 80), 770061, dropout=0.5),
    "strong KL": TrainedFamily((10, 64, 128), 770058, kl=1.0),
    "leaky": TrainedFamily((10, 40, 60), 770009, activation="leaky_relu:0.01"),
    "leaky narrow": TrainedFamily((10, 40, 14), 770047, activation="leaky_relu:0.01"),
    "ReLU out": TrainedFamily((8, 32, 64), 770011, output="relu"),
    "sigmoid out": TrainedFamily((8, 32, 64), 770010, output="sigmoid"),
    "leaky .1, sigmoid out": TrainedFamily((16, 64, 128), 7, activation="leaky_relu:0.1", output="sigmoid"),
    "random leaky 10-40-12-60": RandomFamily((10, 40, 12, 60), 770042, "leaky_relu:0.01"),
    "random leaky 10-21-21-21-60": RandomFamily((10, 21, 21, 21, 60), 770043, "leaky_relu:0.01"),
    "plain": TrainedFamily((5, 32, 64), 770002),
    "random": RandomFamily((8, 40, 80), 770021, bias=1.0),
}
REPORT: dict[str, Family] = {
    "weight decay 3e-4, 12-50-100": TrainedFamily((12, 50, 100), 81001, decay=3e-4),
    "weight decay 2e-3, 8-32-64": TrainedFamily((8, 32, 64), 81002, decay=2e-3),
    "dropout .2, 10-64-64": TrainedFamily((10, 64, 64), 81003, dropout=0.2),
    "dropout .4, 12-40-120": TrainedFamily((12, 40, 120), 81004, dropout=0.4),
    "autoencoder, weight decay, 8-48-96": TrainedFamily((8, 48, 96), 81005, decay=1e-4, kl=0.0),
    "strong KL, 12-48-96": TrainedFamily((12, 48, 96), 81006, kl=0.6),
    "weak KL, 6-40-80": TrainedFamily((6, 40, 80), 81007, kl=0.02),
    "leaky .01, 8-30-60": TrainedFamily((8, 30, 60), 81008, activation="leaky_relu:0.01"),
    "leaky .2, dropout, 10-50-50": TrainedFamily((10, 50, 50), 81009, activation="leaky_relu:0.2", dropout=0.1),
    "leaky .01 narrow, 12-50-16": TrainedFamily((12, 50, 16), 81010, activation="leaky_relu:0.01", decay=1e-4),
    "leaky .1, tanh out, 10-64": TrainedFamily((10, 64), 81011, activation="leaky_relu:0.1", output="tanh"),
    "ReLU out, weight decay, 10-40-80": TrainedFamily((10, 40, 80), 81012, output="relu", decay=3e-4),
    "sigmoid out, dropout, 12-64-128": TrainedFamily((12, 64, 128), 81013, output="sigmoid", dropout=0.2),
    "narrow, deep, 10-32-12-32": TrainedFamily((10, 32, 12, 32), 81014),
    "deep, 8-24-32-48-64": TrainedFamily((8, 24, 32, 48, 64), 81015, decay=1e-4),
    "digits 0 to 4, 8-40-80": TrainedFamily((8, 40, 80), 81016, data="digits 0 to 4", decay=1e-3),
    "digits 5 to 9, leaky .01, 10-36-72": TrainedFamily(
        (10, 36, 72), 81017, data="digits 5 to 9", activation="leaky_relu:0.01", dropout=0.1
    ),
    "spectra, 8-40-80": TrainedFamily((8, 40, 80), 81018, data="spectra", decay=1e-4, kl=0.02),
    "spectra, ReLU out, 10-48": TrainedFamily((10, 48), 81019, data="spectra", output="relu", kl=0.02),
    "decays, strong KL, 6-32-64": TrainedFamily((6, 32, 64), 81020, data="decays", kl=0.6),
    "patches, sigmoid out, 10-60-120": TrainedFamily((10, 60, 120), 81021, data="patches", output="sigmoid", kl=0.02),
    "convolutional, 8-16-8": TrainedFamily((8, 16, 8), 82001, convolutional=True),
    "convolutional, leaky .01, weight decay, 10-16-8": TrainedFamily(
        (10, 16, 8), 82002, activation="leaky_relu:0.01", decay=1e-4, convolutional=True
    ),
    "convolutional, sigmoid out, dropout, 12-24-8": TrainedFamily(
        (12, 24, 8), 82003, output="sigmoid", dropout=0.1, convolutional=True
    ),
    "convolutional, patches, leaky .2, 8-12-6": TrainedFamily(
        (8, 12, 6), 82004, data="patches", activation="leaky_relu:0.2", kl=0.02, convolutional=True
    ),
    "random, 9-36-64": RandomFamily(sizes_of("9-36-64"), 83001, bias=0.5),
    "random leaky .01, 9-36-14-64": RandomFamily(sizes_of("9-36-14-64"), 83002, "leaky_relu:0.01"),
    "random leaky .2, 12-24-24-24-64": RandomFamily(sizes_of("12-24-24-24-64"), 83003, "leaky_relu:0.2", bias=0.3),
    "random leaky .01, 7-30-50-64": RandomFamily(sizes_of("7-30-50-64"), 83004, "leaky_relu:0.01", bias=0.2),
}
FAMILIES = TUNE | REPORT


@cache
def family_network(name: str) -> Network:
    """The generator of a family, trained once in a process, or one of the zoo."""
    return FAMILIES[name].build() if name in FAMILIES else zoo.load(name)


def output_of(name: str) -> str:
    """The activation of a family's outputs."""
    family = FAMILIES[name]
    return family.output if isinstance(family, TrainedFamily) else "identity"


def others(name: str) -> list[str]:
    """Families of the same list, of data in the same range and with as many outputs, whose outputs it did not make."""
    group = next(group for group in (TUNE, REPORT) if name in group)
    return [other for other, theirs in group.items() if other != name and _comparable(FAMILIES[name], theirs)]


def _comparable(mine: Family, theirs: Family) -> bool:
    """Trained ones whose data have one range, or random ones of as many outputs."""
    if isinstance(mine, TrainedFamily) and isinstance(theirs, TrainedFamily):
        return (mine.output == "tanh") == (theirs.output == "tanh")
    if isinstance(mine, RandomFamily) and isinstance(theirs, RandomFamily):
        return mine.sizes[-1] == theirs.sizes[-1]
    return False
