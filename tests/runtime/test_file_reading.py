"""Compressed files that are larger in memory than any data is."""

from __future__ import annotations

import numpy as np
import pytest

from unrelu.errors import InputError
from unrelu.runtime.file_reading import read_npz


def test_what_deflate_makes_small_is_read_up_to_five_hundred_times(tmp_path):
    """A pruned layer, one entry of a thousand of which is not zero, is no bomb; the limit counts from 64 MiB."""
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    pruned = np.where(rng.random((4200, 4200)) < 1e-3, rng.standard_normal((4200, 4200)), 0).astype(np.float32)
    np.savez_compressed(path, W0=pruned)
    ratio = pruned.nbytes / path.stat().st_size
    assert 100 < ratio < 500
    np.testing.assert_array_equal(read_npz(path)["W0"], pruned)
    np.savez_compressed(path, W0=np.zeros(2**26 - 1000, np.uint8))
    assert not read_npz(path)["W0"].any()
    np.savez_compressed(path, W0=np.zeros(2**26, np.uint8))
    with pytest.raises(InputError, match=r"would decompress to 64 MiB, 1,02\d times as much, .* at most 500 times"):
        read_npz(path)
