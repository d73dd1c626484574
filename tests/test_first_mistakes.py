"""The wrong calls that come first to a new user's mind: the message names the value and a call, and that call works."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

import unrelu
from tests.support import random_network
from unrelu.errors import UnreluError

RNG = np.random.default_rng(7)
NET = random_network((3, 12, 80))
PICTURES = unrelu.from_torch(
    nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Unflatten(1, (1, 10, 10))), latent_shape=(3,)
)
Z = RNG.standard_normal((4, 3))
Y = NET(Z)
ONE = Y[0]
A = RNG.standard_normal((30, 80))
SEEN = np.arange(80) < 60
DIGITS = unrelu.zoo.load("mnist-relu")
BYTES = np.round(255 * unrelu.zoo.digits()[0][0].reshape(784)).astype(np.uint8)
MODULE = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.BatchNorm1d(12), nn.Linear(12, 80))
NARROW = random_network((3, 20, 10, 40))
SIGMOID, SIGNED = unrelu.zoo.load("mnist-sigmoid"), unrelu.zoo.load("mnist-dcgan")


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(80, 3), nn.Linear(3, 80)

    def forward(self, x):
        code = self.encoder(x)
        return self.decoder(code), code


def invert(y, method="lm", **options):
    return unrelu.invert(NET, y, method, **({"max_iterations": 20} if method == "lm" else {}) | options)


def digit(y, **options):
    return unrelu.invert(DIGITS, y, "lm", max_iterations=5, **options)


HOLED = np.where(np.arange(80) == 5, np.nan, ONE)
INDICES = np.flatnonzero(SEEN)
PAIRS = [(-3, 3), (-2, 2), (-1, 1)]


def followed(call, **names):
    """What the call of a message gives, with our values for its names; of statements, what they assign first."""
    known = {"numpy": np, "unrelu": unrelu, **names}
    if " = " not in call:
        return eval(call, known)
    exec(call, known)
    return known[call.split(" = ")[0]]


PICTURE, PIXELS = BYTES.reshape(28, 28) / 255, PICTURES(Z)[:, 0]
CERTIFIED = {"time_limit": 0.1, "max_nodes": 2}
# The wrong call; the value and the call that its message names; that call, made as the message has it.
MISTAKES = {
    "a picture for a flat generator": (
        lambda: digit(PICTURE), "(28, 28)", "y.reshape(784)", lambda call: digit(followed(call, y=PICTURE)),
    ),
    "a picture without its channel": (
        lambda: unrelu.invert(PICTURES, PIXELS, "lm"), "(4, 10, 10)", "y.reshape(4, 1, 10, 10)",
        lambda call: unrelu.invert(PICTURES, followed(call, y=PIXELS), "lm", max_iterations=5),
    ),
    "a batch transposed": (lambda: invert(Y.T), "(80, 4)", "y.T", lambda call: invert(followed(call, y=Y.T))),
    "only what a mask leaves": (
        lambda: invert(ONE[SEEN], operator=SEEN), "(60,)", "x = numpy.zeros(mask.shape); x[mask] = y",
        lambda call: invert(followed(call, mask=SEEN, y=ONE[SEEN]), operator=SEEN),
    ),
    "missing values": (
        lambda: invert(HOLED), "entry 5 (nan)", "unrelu.Mask(numpy.isfinite(y))",
        lambda call: invert(HOLED, operator=followed(call, y=HOLED)),
    ),
    "bytes for a generator of [0, 1]": (
        lambda: digit(BYTES), "from 0 to 253", "(0, 1)", lambda call: digit(BYTES, scale=followed(call)),
    ),
    "a method in capitals": (
        lambda: invert(ONE, "Linf"), "'Linf'", "mean 'linf'?", lambda call: invert(ONE, call.split("'")[1]),
    ),
    "an option misspelt": (
        lambda: invert(ONE, "auto", round=3), "'round'", "'rounds'",
        lambda call: invert(ONE, "auto", **{followed(call): 3}),
    ),
    "an option of another method": (
        lambda: invert(ONE, restarts=3), "'restarts'", "method='auto'",
        lambda call: invert(ONE, followed(call.removeprefix("method=")), restarts=3, max_iterations=5),
    ),
    "a mask by its name": (
        lambda: invert(ONE, mask=SEEN), "'mask'", "'operator'", lambda call: invert(ONE, **{followed(call): SEEN}),
    ),
    "draws by another sampler's name": (
        lambda: unrelu.posterior(NET, ONE, noise="gaussian:1", num_samples=40), "'num_samples'", "mean 'draws'?",
        lambda call: unrelu.posterior(NET, ONE, noise="gaussian:1", chains=2, **{call.split("'")[1]: 40}),
    ),
    "steps in place of iterations": (
        lambda: invert(ONE, "adam", steps=5), "'steps'", "mean 'max_iterations'?",
        lambda call: invert(ONE, "adam", **{call.split("'")[1]: 5}),
    ),
    "a tolerance for a proof": (
        lambda: unrelu.certify(NET, ONE, eps=0.1), "'eps'", "mean 'noise'?",
        lambda call: unrelu.certify(NET, ONE, **{call.split("'")[1]: "uniform:0.1"} | CERTIFIED),
    ),
    "a measurement as the method": (
        lambda: unrelu.invert(NET, A @ ONE, A), "array([[", "operator=", lambda call: invert(A @ ONE, **{call[:-1]: A}),
    ),
    "noise as a number": (
        lambda: invert(ONE, noise=0.1), "noise=0.1", "'gaussian:0.1'", lambda call: invert(ONE, noise=followed(call)),
    ),
    "noise with another sign": (
        lambda: invert(ONE, noise="gaussian=0.1"), "noise='gaussian=0.1'", "'gaussian:0.1'",
        lambda call: invert(ONE, noise=followed(call)),
    ),
    "noise by SciPy's name": (
        lambda: invert(ONE, noise="normal:0.1"), "noise='normal:0.1'", "mean 'gaussian:0.1'?",
        lambda call: invert(ONE, noise=call.split("'")[1]),
    ),
    "a covariance as standard deviations": (
        lambda: invert(ONE, noise=unrelu.Gaussian(np.eye(80))), "array(80, 80)", "unrelu.Gaussian(covariance=array)",
        lambda call: invert(ONE, noise=followed(call, array=np.eye(80))),
    ),
    "noise without its level": (
        lambda: invert(ONE, noise="uniform"), "level ''", "'uniform:0.1'",
        lambda call: invert(ONE, noise=followed(call)),
    ),
    "a matrix of the other orientation": (
        lambda: invert(A @ ONE, operator=A.T), "(80, 30)", "A.T",
        lambda call: invert(A @ ONE, operator=followed(call, A=A.T)),
    ),
    "the whole output for a matrix": (
        lambda: invert(ONE, operator=A), "(80,)", "A @ y", lambda call: invert(followed(call, A=A, y=ONE), operator=A),
    ),
    "a mask of grey values": (
        lambda: invert(ONE, operator=255 * SEEN), "255", "mask > 127.5",
        lambda call: invert(ONE, operator=followed(call, mask=255 * SEEN)),
    ),
    "indices in place of a mask": (
        lambda: invert(ONE, operator=INDICES), "(60,)", "mask = numpy.zeros(80, bool); mask[indices] = True",
        lambda call: invert(ONE, operator=followed(call, indices=INDICES)),
    ),
    "a file's name for the generator": (
        lambda: unrelu.invert("decoder.npz", ONE), "is a str", "unrelu.load('decoder.npz')",
        lambda call: unrelu.invert(followed(call), ONE, "lm", max_iterations=5),
    ),
    "a name of the zoo for the generator": (
        lambda: unrelu.invert("mnist-relu", BYTES / 255), "is a str", "unrelu.zoo.load('mnist-relu')",
        lambda call: unrelu.invert(followed(call), BYTES / 255, "lm", max_iterations=5),
    ),
    "a module for the generator": (
        lambda: unrelu.invert(MODULE.eval(), ONE), "a Sequential", "unrelu.from_torch(module, latent_shape=(k,))",
        lambda call: followed(call, module=MODULE.eval(), k=3)(Z),
    ),
    "the arguments swapped": (
        lambda: unrelu.invert(ONE, NET), "a ndarray", "unrelu.invert(network, y)",
        lambda call: followed(call, network=NET, y=ONE),
    ),
    "a file's name for the observation": (
        lambda: invert("y.npy"), "y='y.npy'", "numpy.load('y.npy')", lambda call: invert(followed(call)),
    ),
    "a whole autoencoder": (
        lambda: unrelu.from_torch(Autoencoder().eval()), "a tuple with 0 (2, 80)", "unrelu.from_torch(module.decoder)",
        lambda call: followed(call, module=Autoencoder().eval())(Z),
    ),
    "a module in training mode": (
        lambda: unrelu.from_torch(MODULE.train(), latent_shape=(3,)), "'2' (BatchNorm1d)", "module.eval()",
        lambda call: unrelu.from_torch(followed(call, module=MODULE), latent_shape=(3,)),
    ),
    "starts of another shape": (
        lambda: invert(ONE, z0=np.zeros(4)), "(4,)", "(3,)", lambda call: invert(ONE, z0=np.zeros(followed(call))),
    ),
    "bounds as one number": (
        lambda: invert(ONE, bounds=3), "bounds=3", "(-3, 3)", lambda call: invert(ONE, bounds=followed(call)),
    ),
    "bounds as SciPy's older pairs": (
        lambda: invert(ONE, bounds=PAIRS), "bounds=[(-3, 3), ", "tuple(zip(*bounds))",
        lambda call: invert(ONE, bounds=followed(call, bounds=PAIRS)),
    ),
    "a generator of random numbers for the seed": (
        lambda: invert(ONE, seed=np.random.default_rng(3)), "seed=Generator(PCG64)", "from 0 to 9223372036854775807",
        lambda call: invert(ONE, seed=int(call.split()[1])),
    ),
    "a scale as one number": (
        lambda: digit(BYTES, scale=255), "scale 255", "0,1", lambda call: digit(BYTES, scale=call),
    ),
    "a proof of a sigmoid": (
        lambda: unrelu.certify(SIGMOID, BYTES / 255), "sigmoid", "unrelu.invert",
        lambda call: followed(call)(SIGMOID, BYTES / 255, "lm", max_iterations=2),
    ),
    "a batch's result for one observation": (
        lambda: unrelu.certify(NET, ONE, invert(Y)), "4 codes", "result.z[i]",
        lambda call: unrelu.certify(NET, ONE, followed(call, result=invert(Y), i=0), **CERTIFIED),
    ),
    "a proof in squares": (
        lambda: unrelu.certify(NET, ONE, Z[0], norm="l2"), "norm='l2'", "'linf'",
        lambda call: unrelu.certify(NET, ONE, Z[0], norm=followed(call), **CERTIFIED),
    ),
    "a layer method where a layer does not expand": (
        lambda: unrelu.invert(NARROW, NARROW(Z), "linf"), "layer 2 (20 -> 10)", "'lm'",
        lambda call: unrelu.invert(NARROW, NARROW(Z), followed(call), max_iterations=5),
    ),
    "counts of a generator of [-1, 1]": (
        lambda: unrelu.invert(SIGNED, np.zeros((1, 28, 28)), "lm", noise="poisson"), "from -1 to 1",
        "unrelu.extend(network, scale=(0, 100), offset=(0, 100))",
        lambda call: followed(call, network=SIGNED)(np.ones(22)),
    ),
}  # fmt: skip


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    """decoder.npz and y.npy in the working directory."""
    monkeypatch.chdir(tmp_path)
    np.savez("decoder.npz", W0=RNG.standard_normal((12, 3)), W1=RNG.standard_normal((80, 12)), activation="relu")
    np.save("y.npy", ONE)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_names_the_value_and_a_call_that_works(mistake):
    wrong, value, call, right = MISTAKES[mistake]
    with pytest.raises(UnreluError) as error:
        wrong()
    message = str(error.value)
    assert value in message
    assert call in message
    assert len(message) < 600
    assert right(call) is not None


def test_a_certificate_needs_no_noise():
    assert unrelu.certify(NET, ONE, Z[0], **CERTIFIED) is not None
