"""21cmEMU's file of weights, against its own package; the package is only imported here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import unrelu
from unrelu.errors import ModelError, ModelFileError, OptionError
from unrelu.models.network import Network
from unrelu.models.opaque_network import OpaqueNetwork
from unrelu.runtime.streams import stream

SHAPES = {"Tb": (84,), "xHI": (84,), "Ts": (84,), "discont": (1,), "PS": (60, 12), "tau": (1,), "UVLF": (4, 31)}
# Parameters as shares of their ranges.
Z = stream("21cmEMU").uniform(0, 1, (20, 9))


@pytest.fixture(scope="module")
def folder():
    """The folder of the package, which is found and not run."""
    return Path(next(iter(find_spec("py21cmemu").submodule_search_locations)))


@pytest.fixture(scope="module")
def file(folder):
    return folder / "models" / "acg" / "default_model.pt"


@pytest.fixture(scope="module")
def emulator(file):
    return unrelu.load(file)


@pytest.fixture(scope="module")
def own(file):
    """The package's module."""
    from py21cmemu.models.acg.v1_pytorch import load_converted_model

    return load_converted_model(str(file))


def test_one_line_computes_what_the_package_computes(emulator, own):
    assert isinstance(emulator.plain, OpaqueNetwork)
    assert emulator.parts == SHAPES
    with torch.no_grad():
        single = own(torch.from_numpy(Z).float()).double().numpy()
        double = own.double()(torch.from_numpy(Z)).numpy()
        own.float()
    found = emulator(Z)
    # The same sums in double precision, in another order at most: each of some 20 layers rounds sums of 1,000 terms.
    np.testing.assert_allclose(found, double, atol=20 * 1000 * np.finfo(np.float64).eps * np.ptp(double), rtol=0)
    alike = emulator.to(torch.float32)(Z)
    np.testing.assert_allclose(alike, single, atol=20 * 1000**0.5 * np.finfo(np.float32).eps * np.ptp(single), rtol=0)


def test_one_part_is_a_chain_of_layers_and_the_others_are_not_computed(emulator, file):
    for name in ("tau", "PS"):
        net = unrelu.load(file, output=name)
        assert isinstance(net.plain, Network)
        wanted = emulator.by_part(emulator(Z))[name]
        np.testing.assert_allclose(net(Z).reshape(wanted.shape), wanted, atol=1e-10)
    assert net.work < emulator.work
    pair = unrelu.load(file, output={"optical depth": "tau", "T": "Tb"})
    assert pair.parts == {"optical depth": (1,), "T": (84,)}


def test_physical_units_are_those_of_the_package(folder, file):
    from py21cmemu import Emulator

    own = Emulator(emulator="acg")
    c = np.load(folder / "emulator_constants.npz")
    low, high = c["limits"].T
    scales = {"Tb": "Tb", "Ts": "Ts", "PS": "PS", "tau": "tau", "UVLF": "UVLFs"}
    net = unrelu.load(
        file, output=["Tb", "xHI", "Ts", "PS", "tau", "UVLF"], input_scale=(low, high - low),
        output_scale={part: (c[f"{name}_mean"], c[f"{name}_std"]) for part, name in scales.items()},
        output_log={"Ts": 10, "PS": 10, "tau": 10},
    )  # fmt: skip
    assert list(net.coordinate_names) == list(own.inputs.astro_param_keys)
    theta = low + Z * (high - low)
    found = net.by_part(net(theta))
    theta[:, 7] *= 1000  # the package takes E_0 in eV
    _, predicted, _ = own.predict(theta)
    wanted = {name: np.asarray(getattr(getattr(predicted, name), "value", None)) for name in ("Tb", "Ts", "PS", "tau")}
    seen = np.isfinite(wanted["Ts"])  # elsewhere the package says that the gas has no spin temperature
    assert seen.mean() > 0.5
    found["tau"], found["Ts"], wanted["Ts"] = found["tau"][:, 0], found["Ts"][seen], wanted["Ts"][seen]
    for name, x in wanted.items():
        # Their single precision, by the gain of the layers between: it is off by as much from their own double.
        np.testing.assert_allclose(found[name], x, atol=1e-4 * np.ptp(x), rtol=0)


def test_parameters_are_found_from_some_summaries(file):
    net = unrelu.load(file, output=["tau", "discont"])
    x = net.by_part(net(Z[0]))
    r = unrelu.invert(net, {"tau": x["tau"]}, "lm", bounds=(0, 1), noise={"tau": 0.01})
    assert r.success
    assert abs(r.reconstruction[0] - x["tau"][0]) < 0.03


def test_what_does_not_go_with_the_file(file):
    for option in ({"activation": "relu"}, {"layers": ["tau_0"]}):
        with pytest.raises(OptionError, match="does not go with this emulator, whose file says it"):
            unrelu.load(file, **option)
    with pytest.raises(ModelError, match=r"which has no output='PS2D'"):
        unrelu.load(file, output="PS2D")
    with pytest.raises(ModelFileError, match="at most 32 MiB are read"):
        unrelu.load(file, max_bytes=2**25)
