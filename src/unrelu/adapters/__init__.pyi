"""The table of public names of the adapters, which ``__init__.py`` reads."""

from ._deepinv_reconstructor import GeneratorReconstructor as GeneratorReconstructor
from ._sklearn_inverter import LatentInverter as LatentInverter
