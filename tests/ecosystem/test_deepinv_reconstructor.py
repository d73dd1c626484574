"""GeneratorReconstructor with deepinv's own physics, noise models and test loop."""

from __future__ import annotations

import copy
import subprocess
import sys

import deepinv
import numpy as np
import pytest
import torch
from deepinv import physics as ph
from torch.utils.data import DataLoader

import unrelu
from tests.support import image_network, random_network
from unrelu.adapters import GeneratorReconstructor
from unrelu.errors import InputError, OptionError

IMAGE = (1, 28, 28)
DIGITS = unrelu.zoo.load("mnist-relu")
CODES = np.random.default_rng(100).standard_normal((3, 20))  # not of seed 0, which the searches start from
IMAGES = torch.from_numpy(DIGITS(CODES)).float().reshape(-1, *IMAGE)


def masks(*shape, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5).float()


FILTER = torch.ones(1, 1, 3, 3) / 9
PHYSICS = {
    "denoising": lambda: ph.Denoising(ph.ZeroNoise()),
    "inpainting": lambda: ph.Inpainting(IMAGE, mask=masks(*IMAGE)),
    "inpainting, a mask for each": lambda: ph.Inpainting(IMAGE, mask=masks(3, *IMAGE)),
    "blur": lambda: ph.Blur(filter=FILTER, padding="circular"),
    "downsampling": lambda: ph.Downsampling(IMAGE, filter=FILTER, factor=2),
    "compressed sensing": lambda: ph.CompressedSensing(m=80, img_size=IMAGE, rng=torch.Generator().manual_seed(0)),
    "tomography": lambda: ph.Tomography(angles=20, img_width=28, normalize=True),
    "functions": lambda: ph.LinearPhysics(
        A=lambda x: x[..., :14], A_adjoint=lambda y: torch.nn.functional.pad(y.reshape(-1, 1, 28, 14), (0, 14))
    ),
}


@pytest.mark.parametrize("name", PHYSICS)
def test_images_are_recovered_under_physics_of_every_kind(name):
    physics = PHYSICS[name]()
    # Measurements are in single precision: their rounding is noise, and only where it is stated the fit is a success.
    model = GeneratorReconstructor(DIGITS, image_shape=IMAGE, noise="gaussian:1e-5")
    found = model(physics(IMAGES), physics)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, IMAGES, atol=1e-4, rtol=0)
    np.testing.assert_allclose(model.inversion.z, CODES, atol=1e-3)
    assert model.inversion.success.all()


def test_masks_of_weights_are_matrices():
    physics = ph.Inpainting(IMAGE, mask=0.5 + masks(*IMAGE))
    # physics(x) would weigh twice: Inpainting masks the noise by masking the noisy measurements.
    found = GeneratorReconstructor(DIGITS, noise=None)(physics.A(IMAGES), physics)
    torch.testing.assert_close(found, IMAGES, atol=1e-4, rtol=0)


def test_the_shape_of_images_is_that_of_the_output_or_of_the_physics():
    network = image_network()
    x = torch.from_numpy(network(np.random.default_rng(100).standard_normal((2, 3))))
    physics = ph.Inpainting((1, 6, 6), mask=torch.ones(1, 6, 6, dtype=torch.float64))
    found = GeneratorReconstructor(network)(physics(x), physics)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, x, atol=1e-8, rtol=0)
    physics = PHYSICS["inpainting"]()
    assert GeneratorReconstructor(DIGITS, "lm", max_iterations=2)(physics(IMAGES), physics).shape == IMAGES.shape
    for physics in (PHYSICS["blur"](), ph.Inpainting((1, 7, 7), mask=0.5)):
        with pytest.raises(InputError, match=r"network's output \(784,\); pass image_shape=\(C, H, W\)"):
            GeneratorReconstructor(DIGITS)(IMAGES, physics)


@pytest.mark.parametrize("method", ["exact", "linf"])
def test_layerwise_methods_know_masks_and_the_identity(method):
    network = random_network((3, 30, 144))
    x = torch.from_numpy(network(np.random.default_rng(100).standard_normal((2, 3)))).reshape(2, 1, 12, 12)
    model = GeneratorReconstructor(network, method, image_shape=(1, 12, 12))
    for physics in (ph.Denoising(ph.ZeroNoise()), ph.Inpainting((1, 12, 12), mask=masks(2, 1, 12, 12))):
        torch.testing.assert_close(model(physics(x), physics), x, atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("model", "kind", "level"),
    [
        (ph.GaussianNoise(0.25), "gaussian", 0.25),
        (ph.GaussianNoise(torch.tensor([0.25, 0.25, 0.25])), "gaussian", 0.25),
        (ph.GaussianNoise(torch.tensor([0.25, 0.25, 0.5])), "unknown", None),
        (ph.GaussianNoise(0.0), "unknown", None),
        (ph.UniformNoise(0.125), "uniform", 0.125),
        (ph.SaltPepperNoise(p=0.125, s=0.0625), "outliers", 0.1875),
        (ph.PoissonNoise(0.1), "unknown", None),
    ],
)
def test_the_noise_is_that_of_the_physics_unless_it_is_stated(model, kind, level):
    reconstructor = GeneratorReconstructor(DIGITS, "lm", image_shape=IMAGE, max_iterations=1)
    reconstructor(IMAGES, ph.Denoising(model))
    noise = reconstructor.inversion.problem.noise
    assert noise.name == kind
    assert level is None or noise.level == level
    reconstructor(IMAGES, ph.Denoising(model), noise="uniform:0.5")
    assert reconstructor.inversion.problem.noise.level == 0.5


def test_noise_is_removed_down_to_its_level():
    physics = ph.Denoising(ph.GaussianNoise(0.1, rng=torch.Generator().manual_seed(0)))
    model = GeneratorReconstructor(DIGITS, image_shape=IMAGE)
    error = (model(physics(IMAGES), physics) - IMAGES).pow(2).mean().sqrt()
    # 20 coordinates fit 20 of 784 parts of the noise's energy.
    assert error < 0.1 * (20 / 784) ** 0.5 * 1.3
    assert [status.name for status in model.inversion.status] == ["NOISE_LEVEL"] * 3


@pytest.mark.filterwarnings("ignore:non_blocking_transfers:UserWarning")  # deepinv's default on a CPU
def test_the_test_loop_measures_it():
    physics = ph.Inpainting(IMAGE, mask=masks(*IMAGE))
    pairs = [{"x": x, "y": y} for x, y in zip(IMAGES, physics(IMAGES), strict=True)]
    results = deepinv.test(
        GeneratorReconstructor(DIGITS), DataLoader(pairs, batch_size=2), physics, metrics=deepinv.loss.metric.PSNR(),
        verbose=False, show_progress_bar=False,
    )  # fmt: skip
    assert results["PSNR no learning"] < 30
    assert results["PSNR"] > 70  # deepinv's stops at 80


def test_it_is_a_module_without_weights():
    model = GeneratorReconstructor(DIGITS, image_shape=IMAGE)
    assert isinstance(model, deepinv.models.Reconstructor)
    assert not list(model.parameters())
    assert model.inversion is None
    assert copy.deepcopy(model.eval().to("cpu")).image_shape == IMAGE


def test_arguments_of_a_call_come_before_those_of_the_reconstructor():
    physics = PHYSICS["inpainting"]()
    model = GeneratorReconstructor(DIGITS, "lm", max_iterations=1, bounds=(-0.5, 0.5))
    model(physics(IMAGES), physics)
    assert (np.abs(model.inversion.z) <= 0.5).all()
    torch.testing.assert_close(model(physics(IMAGES), physics, z0=CODES, bounds=None), IMAGES)
    with pytest.raises(OptionError, match="method 'lm' has no option 'x_gt'; it takes"):
        model(physics(IMAGES), physics, x_gt=IMAGES)


def test_observations_without_a_code_are_images_of_nan():
    physics = PHYSICS["inpainting"]()
    model = GeneratorReconstructor(DIGITS)
    with pytest.warns(RuntimeWarning, match="3 of 3 observations have no code and are images of NaN, first 0: stopped"):
        assert model(physics(IMAGES), physics, callback=lambda progress: True).isnan().all()


@pytest.mark.parametrize(
    ("y", "physics", "message"),
    [
        (IMAGES[..., :20], PHYSICS["denoising"](), r"y has shape \(3, 560\), the network ends in \(784,\)"),
        (IMAGES, PHYSICS["downsampling"](), r"y has shape \(3, 784\), operator= gives \(1, 14, 14\)"),
        (IMAGES, ph.PhaseRetrieval(B=PHYSICS["functions"]()), "operator= is not linear"),
        (IMAGES[:2], ph.Inpainting(IMAGE, mask=masks(3, *IMAGE)), "3 masks for 2 observations; pass one for all"),
        (IMAGES, ph.Inpainting(IMAGE), r"operator\.A fails on an output"),
        (IMAGES, ph.Inpainting(IMAGE, mask=0.5 + masks(3, *IMAGE)), "it must be 784 finite real numbers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_invert(y, physics, message):
    with pytest.raises(InputError, match=message):
        GeneratorReconstructor(DIGITS, image_shape=IMAGE)(y, physics)


def test_without_deepinv_the_message_says_what_to_install():
    code = """
import sys
sys.modules["deepinv"] = None
from unrelu.adapters import LatentInverter
try:
    from unrelu.adapters import GeneratorReconstructor
except ModuleNotFoundError as error:
    print(type(error).__name__, error.name, error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("MissingPackageError deepinv GeneratorReconstructor needs deepinv: pip install deepinv")


@pytest.mark.parametrize("factor", [2, 4])
def test_linearity_is_checked_in_the_precision_of_the_physics(factor):
    """Super-resolution of deepinv computes in single precision, and its rounding is no nonlinearity."""
    physics = ph.Downsampling((1, 32, 32), filter="gaussian", factor=factor, padding="circular")
    layers = torch.nn.Linear(5, 1024), torch.nn.Unflatten(1, (1, 32, 32)), torch.nn.Tanh()
    net = unrelu.from_torch(torch.nn.Sequential(*layers))
    z = np.random.default_rng(7).standard_normal((2, 5))
    y = physics(torch.from_numpy(net(z)).float())
    assert unrelu.invert(net, y.numpy(), operator=physics, noise="gaussian:1e-5").success.all()
