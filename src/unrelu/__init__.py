"""unrelu: invert deep ReLU generative models, one layer at a time and jointly.

The public names are imported when they are first used, so that ``import unrelu`` and ``unrelu --help`` stay quick.
Their table is ``__init__.pyi``, as Scientific Python's SPEC 1 has it.
"""

from typing import Any

import lazy_loader

from unrelu._version import __version__ as __version__

_imported, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)

# ``import *`` does without what needs an optional package.
__all__ = [name for name in _names if name not in ("LatentInverter", "adapters", "from_jax")]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    from unrelu.runtime.interrupts import interrupts_held  # noqa: PLC0415 -- import unrelu stays quick

    with interrupts_held():
        return _imported(name)
