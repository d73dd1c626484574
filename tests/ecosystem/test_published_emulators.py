"""Networks that others have published, from their packages' files, beside what the packages predict."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest

import unrelu

PROBES = ("cmb_tt", "cmb_ee", "cmb_te", "cmb_pp", "mpk_lin", "mpk_boost")
# What the package predicts: with the arrays of its file in double precision, and in single precision as they are.
_THEIRS = """
import sys
import jax
import numpy as np
from cosmopower_jax.cosmopower_jax import CosmoPowerJAX
for probe in sys.argv[2:]:
    emulator = CosmoPowerJAX(probe)
    steps = np.random.default_rng(0).uniform(-1.5, 1.5, (20, emulator.n_parameters))
    z = np.float64(emulator.param_train_mean) + np.float64(emulator.param_train_std) * steps
    single = np.asarray(emulator.predict(jax.numpy.asarray(z)))
    jax.config.update("jax_enable_x64", True)
    for name, value in vars(emulator).items():
        if name not in ("probe", "log", "parameters", "n_parameters", "modes"):
            setattr(emulator, name, jax.tree_util.tree_map(np.float64, value))
    np.savez(f"{sys.argv[1]}/{probe}.npz", z=z, single=single, double=emulator.predict(jax.numpy.asarray(z)))
    jax.config.update("jax_enable_x64", False)
"""


def test_the_networks_of_cosmopower_jax(tmp_path):
    """All in one test, so that JAX starts once; in a process of its own, as it warns of later forks."""
    command = [sys.executable, "-c", _THEIRS, str(tmp_path), *PROBES]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = files("cosmopower_jax")
    for probe in PROBES:
        basis = None
        if probe in ("cmb_te", "cmb_pp"):
            names = ("pca_transform_matrix", "training_std", "training_mean")
            matrix, std, mean = (np.load(folder / "pca_utils" / f"{probe}_{name}.npy") for name in names)
            basis = (matrix * std, mean)
        path = folder / "trained_models" / f"{probe}.pkl"
        net = unrelu.load(path, output_basis=basis, output_log=None if probe == "cmb_te" else 10)
        theirs = np.load(tmp_path / f"{probe}.npz")
        ours = net(theirs["z"])
        size = np.ptp(theirs["double"])
        assert np.abs(ours - theirs["double"]).max() <= 1e-11 * size, probe
        # Their single precision: roundings of sums of 512 products, in logarithms of up to 20.
        assert np.abs(ours - theirs["single"]).max() <= 512 * 2.0**-23 * 20 * size, probe
        assert net.coordinate_names[:3] == ("omega_b", "omega_cdm", "h")


@pytest.mark.parametrize("template", ["tf_cmb_template", "tf_pca_template"])
def test_the_templates_of_cosmopower(template):
    """A pickle with TensorFlow's lists, and the archive that it was converted to."""
    folder = files("cosmopower_jax") / "trained_models"
    one, other = (unrelu.load(folder / f"{template}{suffix}") for suffix in (".pkl", ".npz"))
    z = np.array([0.022, 0.12, 0.67, 0.054, 0.97, 3.05, 1.0])
    np.testing.assert_array_equal(one(z), other(z))
    assert one.output_shape == (4999,)
    assert one.coordinate_names == other.coordinate_names == ("ombh2", "omch2", "h", "tau", "ns", "logA", "Alens")
