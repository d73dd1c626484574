"""The exceptions that unrelu raises.

::

    UnreluError
    ├── ModelError (ValueError)          a model that cannot be used
    │   ├── UnsupportedModelError        a node that breaks the chain of layers, or a module that is not a generator
    │   └── ModelFileError               a file that cannot be read, or is not what its name says
    ├── InputError (ValueError)          data, shapes or noise levels that make no sense
    ├── OptionError (TypeError)          an unknown or ill-typed option of a method
    ├── OutputExistsError (FileExistsError)  an output folder that would be overwritten
    ├── StorageError (OSError)           results that cannot be written: a full disk, a folder without permission
    ├── MissingPackageError (ModuleNotFoundError)  an optional package that is not installed
    ├── HostError (RuntimeError)         a task that this process cannot do: it is forked or a daemon, or memory is full
    └── SolverError (RuntimeError)       an LP solver that refused its input or broke down

    NotMixedWarning (UserWarning)        means or intervals of chains that have not mixed

Every message shows the offending value and says what to do about it. Each class also derives from the built-in
exception that a caller expects, so ``except ValueError`` works.

>>> import unrelu
>>> net = unrelu.from_arrays([[[2.0], [-1.0], [1.0]]])
>>> try:
...     unrelu.invert(net, [1.0, 2.0])
... except unrelu.errors.UnreluError as error:
...     print(type(error).__name__, "-", error)
InputError - y has shape (2,), the network ends in (3,); pass one observation ...
"""

from __future__ import annotations


class UnreluError(Exception):
    """Base class of every exception raised on purpose by this package."""


class ModelError(UnreluError, ValueError):
    """A model cannot be used: bad weights, shapes that do not chain, training mode."""


class UnsupportedModelError(ModelError):
    """A method needs a chain of layers and a node breaks it, or a module is not a differentiable generator."""


class ModelFileError(ModelError):
    """A model file is missing, truncated, of an unknown kind or unsafe to read."""


class InputError(UnreluError, ValueError):
    """Observations, codes or noise levels have the wrong shape, range or values."""


class OptionError(UnreluError, TypeError):
    """An option is unknown to the chosen method, or its value is not allowed."""


class OutputExistsError(UnreluError, FileExistsError):
    """The output folder exists; it is overwritten only on request."""


class StorageError(UnreluError, OSError):
    """Results cannot be written: the disk is full or missing, or permission is denied."""


class MissingPackageError(UnreluError, ModuleNotFoundError):
    """An optional package is needed but not installed; the message says how to install it."""


class HostError(UnreluError, RuntimeError):
    """This process cannot do the task: a forked process cannot use the GPU, a daemon cannot start processes."""


class SolverError(UnreluError, RuntimeError):
    """An LP solver refused its input, or its result is not a solution."""


class NotMixedWarning(UserWarning):
    """Means, standard deviations or intervals come from Markov chains that have not mixed."""
