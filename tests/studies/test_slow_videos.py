"""The material of the benchmark of sequences."""

from __future__ import annotations

import numpy as np

from unrelu_studies.benchmarks.large_generators.slow_videos import VIDEOS, dense, rows, slow_video


def test_frames_change_slowly():
    network = dense((8, 32, 256), 0)
    frames = slow_video(network, 6, 0)
    steps = np.linalg.norm(np.diff(frames, axis=0), axis=1)
    whole = np.linalg.norm(frames - frames.mean(axis=0), axis=1)
    assert frames.shape == (6, 256)
    assert steps.max() < 2 * 0.1 * 16 * 1.5, "little more than the noise of two frames"
    assert whole.min() > 0


def test_a_sequence_has_the_verdicts_of_a_batch():
    (row,) = rows(quick=True, seed=0, names=VIDEOS[1:])
    assert row["same"] == row["frames"]
    assert row["descended"] == row["frames"] - 1
    assert row["ratio"] < 1.01
