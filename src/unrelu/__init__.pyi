"""The public names and where they are: what type checkers read, and what `unrelu` imports when it is first used."""

from . import adapters as adapters
from . import errors as errors
from . import measurements as measurements
from . import methods as methods
from . import zoo as zoo
from ._calibrate import calibrate as calibrate
from ._certify import certify as certify
from ._inspect import inspect as inspect
from ._invert import invert as invert
from ._load_answers import load_posterior as load_posterior
from ._load_answers import load_result as load_result
from ._posterior import posterior as posterior
from ._profile import Profile as Profile
from ._profile import profile as profile
from .adapters import LatentInverter as LatentInverter
from .certification.certificate import Certificate as Certificate
from .certification.certificate import Certificates as Certificates
from .certification.proof import ProofStatus as ProofStatus
from .diagnostics.identifiability import Identifiability as Identifiability
from .diagnostics.identifiability import identifiability as identifiability
from .loaders import from_arrays as from_arrays
from .loaders import from_torch as from_torch
from .loaders import load as load
from .measurements import Mask as Mask
from .measurements import Matrix as Matrix
from .measurements import emulator_error as emulator_error
from .measurements.additive_noise import Gaussian as Gaussian
from .measurements.additive_noise import Outliers as Outliers
from .measurements.additive_noise import Uniform as Uniform
from .measurements.count_noise import NegativeBinomial as NegativeBinomial
from .measurements.count_noise import Poisson as Poisson
from .models.code_prior import Normal as Normal
from .models.generator import Generator as Generator
from .models.joined import join as join
from .models.network import Network as Network
from .models.nuisance_parameters import extend as extend
from .problem import Problem as Problem
from .result import Inversion as Inversion
from .result import Status as Status
from .runs import Run as Run
from .runs import open_run as open_run
from .runs import run as run
from .runtime.run_control import Progress as Progress
from .sampling.draws import Posterior as Posterior

__version__: str
