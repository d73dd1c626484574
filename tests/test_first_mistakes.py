"""The wrong calls that come first to a new user's mind: the message names the value and a call, and that call works."""

from __future__ import annotations

import re

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


def invert(y, method="lm", **options):
    return unrelu.invert(NET, y, method, **({"max_iterations": 20} if method == "lm" else {}) | options)


def holed():
    y = ONE.copy()
    y[5] = np.nan
    return y


# The wrong call; what its message says, the value and then the call that works; that call, made as the message has it.
MISTAKES = {
    "a picture for a flat generator": (
        lambda: unrelu.invert(DIGITS, BYTES.reshape(28, 28) / 255, "lm"),
        r"y has shape \(28, 28\), the network ends in \(784,\); pass (?P<call>y\.reshape\(784\))",
        lambda call: unrelu.invert(DIGITS, evaluated(call, y=BYTES.reshape(28, 28) / 255), "lm", max_iterations=5),
    ),
    "a picture without its channel": (
        lambda: unrelu.invert(PICTURES, PICTURES(Z)[:, 0], "lm"),
        r"y has shape \(4, 10, 10\), .* \(1, 10, 10\); pass (?P<call>y\.reshape\(4, 1, 10, 10\))",
        lambda call: unrelu.invert(PICTURES, evaluated(call, y=PICTURES(Z)[:, 0]), "lm", max_iterations=5),
    ),
    "a batch transposed": (
        lambda: invert(Y.T),
        r"y has shape \(80, 4\), .* pass (?P<call>y\.T)",
        lambda call: invert(evaluated(call, y=Y.T)),
    ),
    "only what a mask leaves": (
        lambda: invert(ONE[SEEN], operator=SEEN),
        r"y has shape \(60,\), .* pass y with all entries, (?P<call>x = numpy.zeros\(mask.shape\); x\[mask\] = y)",
        lambda call: invert(executed(call, "x", mask=SEEN, y=ONE[SEEN]), operator=SEEN),
    ),
    "missing values": (
        lambda: invert(holed()),
        r"NaN or infinite entries .* entry 5 \(nan\); .* hide them by operator=(?P<call>unrelu\.Mask\(.*\))",
        lambda call: invert(holed(), operator=evaluated(call, y=holed())),
    ),
    "bytes for a generator of [0, 1]": (
        lambda: unrelu.invert(DIGITS, BYTES, "lm"),
        r"go from 0 to 25\d, outputs of the generator from 0 to 1\.3.*: pass scale=(?P<call>\(0, 1\))",
        lambda call: unrelu.invert(DIGITS, BYTES, "lm", scale=evaluated(call), max_iterations=5),
    ),
    "a method in capitals": (
        lambda: invert(ONE, "Linf"),
        r"method 'Linf' is unknown; .*; did you mean '(?P<call>linf)'\?",
        lambda call: invert(ONE, call),
    ),
    "an option misspelt": (
        lambda: invert(ONE, "auto", round=3),
        r"method 'auto' has no option 'round'; it takes .*; did you mean '(?P<call>rounds)'\?",
        lambda call: invert(ONE, "auto", **{call: 3}),
    ),
    "an option of another method": (
        lambda: invert(ONE, restarts=3),
        r"method 'lm' has no option 'restarts'; .*; it is one of method='(?P<call>auto)'",
        lambda call: invert(ONE, call, restarts=3, max_iterations=5),
    ),
    "a mask by its name": (
        lambda: invert(ONE, mask=SEEN),
        r"method 'lm' has no option 'mask'; .*; did you mean '(?P<call>operator)'\?",
        lambda call: invert(ONE, **{call: SEEN}),
    ),
    "a measurement as the method": (
        lambda: unrelu.invert(NET, A @ ONE, A),
        r"method array\(.{1,60} is unknown; .*; pass a measurement by its name, (?P<call>operator)=",
        lambda call: invert(A @ ONE, **{call: A}),
    ),
    "noise as a number": (
        lambda: invert(ONE, noise=0.1),
        r"noise=0\.1: use .*; is it a standard deviation, '(?P<call>gaussian:0\.1)', or the largest error",
        lambda call: invert(ONE, noise=call),
    ),
    "noise with another sign": (
        lambda: invert(ONE, noise="gaussian=0.1"),
        r"noise='gaussian=0\.1': use .*; did you mean '(?P<call>gaussian:0\.1)'\?",
        lambda call: invert(ONE, noise=call),
    ),
    "noise without its level": (
        lambda: invert(ONE, noise="uniform"),
        r"noise='uniform': the level '' is not a number; write e\.g\. '(?P<call>uniform:0\.1)'",
        lambda call: invert(ONE, noise=call),
    ),
    "a matrix of the other orientation": (
        lambda: invert(A @ ONE, operator=A.T),
        r"operator= has shape \(80, 30\); .*; it has the other orientation: pass operator=(?P<call>A\.T)",
        lambda call: invert(A @ ONE, operator=evaluated(call, A=A.T)),
    ),
    "the whole output for a matrix": (
        lambda: invert(ONE, operator=A),
        r"y has shape \(80,\), operator= gives \(30,\); pass what it measures, (?P<call>A @ y)",
        lambda call: invert(evaluated(call, A=A, y=ONE), operator=A),
    ),
    "a mask of grey values": (
        lambda: invert(ONE, operator=255 * SEEN),
        r"a mask, but has entries like 255; a mask is made of 0 and 1: pass operator=(?P<call>mask > 127\.5)",
        lambda call: invert(ONE, operator=evaluated(call, mask=255 * SEEN)),
    ),
    "indices in place of a mask": (
        lambda: invert(ONE, operator=np.flatnonzero(SEEN)),
        r"operator= has shape \(60,\); .*; of indices make a mask: (?P<call>mask = .* = True)$",
        lambda call: invert(ONE, operator=executed(call, "mask", indices=np.flatnonzero(SEEN))),
    ),
    "a file's name for the generator": (
        lambda: unrelu.invert("decoder.npz", ONE),
        r"network is a str; .*: (?P<call>unrelu\.load\('decoder\.npz'\))",
        lambda call: unrelu.invert(evaluated(call), ONE, "lm", max_iterations=5),
    ),
    "a name of the zoo for the generator": (
        lambda: unrelu.invert("mnist-relu", BYTES / 255),
        r"network is a str; .*: (?P<call>unrelu\.zoo\.load\('mnist-relu'\))",
        lambda call: unrelu.invert(evaluated(call), BYTES / 255, "lm", max_iterations=5),
    ),
    "a module for the generator": (
        lambda: unrelu.invert(MODULE.eval(), ONE),
        r"network is a Sequential; .*: (?P<call>unrelu\.from_torch\(module, latent_shape=\(k,\)\))",
        lambda call: evaluated(call, module=MODULE.eval(), k=3)(Z),
    ),
    "the arguments swapped": (
        lambda: unrelu.invert(ONE, NET),
        r"network is a ndarray; .*; it comes first, before the observations: (?P<call>unrelu\.invert\(network, y\))",
        lambda call: evaluated(call, network=NET, y=ONE),
    ),
    "a file's name for the observation": (
        lambda: invert("y.npy"),
        r"y='y\.npy' is text; pass the numbers: y=(?P<call>numpy\.load\('y\.npy'\))",
        lambda call: invert(evaluated(call)),
    ),
    "a module in training mode": (
        lambda: unrelu.from_torch(MODULE.train(), latent_shape=(3,)),
        r"module '2' \(BatchNorm1d\) is in training mode; call (?P<call>module\.eval\(\)) first",
        lambda call: unrelu.from_torch(evaluated(call, module=MODULE), latent_shape=(3,)),
    ),
    "starts of another shape": (
        lambda: invert(ONE, z0=np.zeros(4)),
        r"z0 has shape \(4,\); this network takes codes of shape \((?P<call>3),\) or \(B, 3\)",
        lambda call: invert(ONE, z0=np.zeros(int(call))),
    ),
    "bounds as one number": (
        lambda: invert(ONE, bounds=3),
        r"bounds=3 is no pair; pass (?P<call>\(-3, 3\)) or \(lower, upper\)",
        lambda call: invert(ONE, bounds=evaluated(call)),
    ),
    "bounds as SciPy's older pairs": (
        lambda: invert(ONE, bounds=[(-3, 3), (-2, 2), (-1, 1)]),
        r"bounds=\[\(-3, 3\), .* is no pair; pass (?P<call>tuple\(zip\(\*bounds\)\)), numbers",
        lambda call: invert(ONE, bounds=evaluated(call, bounds=[(-3, 3), (-2, 2), (-1, 1)])),
    ),
    "a generator of random numbers for the seed": (
        lambda: invert(ONE, seed=np.random.default_rng(3)),
        r"seed=Generator\(PCG64\).* must be a whole number from (?P<call>0) to 9223372036854775807",
        lambda call: invert(ONE, seed=int(call)),
    ),
    "a scale as one number": (
        lambda: unrelu.invert(DIGITS, BYTES, "lm", scale=255),
        r"scale 255 is not LOW,HIGH: pass two finite numbers, the lower one first, such as (?P<call>0,1)",
        lambda call: unrelu.invert(DIGITS, BYTES, "lm", scale=call, max_iterations=5),
    ),
    "a proof of a sigmoid": (
        lambda: unrelu.certify(unrelu.zoo.load("mnist-sigmoid"), BYTES / 255),
        r"cannot be certified: layer 2 ends in sigmoid; .*; (?P<call>unrelu\.invert) judges its codes by p-value",
        lambda call: evaluated(call)(unrelu.zoo.load("mnist-sigmoid"), BYTES / 255, "lm", max_iterations=2),
    ),
    "a batch's result for one observation": (
        lambda: unrelu.certify(NET, ONE, invert(Y)),
        r"result has 4 codes, y 1 observation: pass \(1, 3\): .* (?P<call>result\.z\[i\])",
        lambda call: unrelu.certify(NET, ONE, evaluated(call, result=invert(Y), i=0), time_limit=0.1, max_nodes=2),
    ),
    "a proof in squares": (
        lambda: unrelu.certify(NET, ONE, Z[0], norm="l2"),
        r"norm='l2': certificates bound the largest error, '(?P<call>linf)'",
        lambda call: unrelu.certify(NET, ONE, Z[0], norm=call, time_limit=0.1, max_nodes=2),
    ),
    "a certificate without noise": (lambda: unrelu.certify(NET, ONE, Z[0], time_limit=0.1, max_nodes=2), "", None),
    "a layer method where a layer does not expand": (
        lambda: unrelu.invert(NARROW, NARROW(Z), "linf"),
        r"layer 2 \(20 -> 10\) has fewer outputs than inputs, .*: use method='auto' or '(?P<call>lm)'",
        lambda call: unrelu.invert(NARROW, NARROW(Z), call, max_iterations=5),
    ),
    "counts of a generator of [-1, 1]": (
        lambda: unrelu.invert(unrelu.zoo.load("mnist-dcgan"), np.zeros((1, 28, 28)), "lm", noise="poisson"),
        r"counts have means of at least 0, and outputs .* go from -1 to 1; .* (?P<call>unrelu\.extend\(.*?\)\))",
        lambda call: evaluated(call, network=unrelu.zoo.load("mnist-dcgan"))(np.ones(22)),
    ),
}


def evaluated(call, **names):
    """What an expression of a message gives, with our values for its names."""
    return eval(call, {"numpy": np, "unrelu": unrelu, **names})


def executed(call, result, **names):
    """What statements of a message make of one of their names."""
    known = {"numpy": np, **names}
    exec(call, known)
    return known[result]


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    """decoder.npz and y.npy in the working directory."""
    monkeypatch.chdir(tmp_path)
    np.savez("decoder.npz", W0=RNG.standard_normal((12, 3)), W1=RNG.standard_normal((80, 12)), activation="relu")
    np.save("y.npy", ONE)


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_message_names_the_value_and_a_call_that_works(mistake):
    wrong, said, right = MISTAKES[mistake]
    if right is None:  # no mistake: it works
        assert wrong() is not None
        return
    with pytest.raises(UnreluError) as error:
        wrong()
    message = str(error.value)
    found = re.search(said, message)
    assert found, message
    assert len(message) < 600
    assert right(found.groupdict().get("call")) is not None
