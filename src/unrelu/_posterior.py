"""Posterior draws of codes: what else the observation could be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unrelu.display.progress_bar import reporting
from unrelu.errors import OptionError
from unrelu.measurements.noise import Noise
from unrelu.measurements.picture_scale import Scaling
from unrelu.models.generator import Generator, placed
from unrelu.models.network import small
from unrelu.posterior._code_prior import CodePrior
from unrelu.posterior._target import Target, check_noise
from unrelu.posterior.draws import Posterior
from unrelu.posterior.sampling import Sample, sample
from unrelu.problem import Problem, Progress
from unrelu.runtime.host import computing
from unrelu.runtime.streams import stream
from unrelu.runtime.words import shown
