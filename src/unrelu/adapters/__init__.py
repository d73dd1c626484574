"""unrelu inside other libraries: a scikit-learn transformer and a deepinv reconstructor.

Each needs its library, which is an optional one, so they are imported when they are first used. Without the library
that is a :class:`~unrelu.errors.MissingPackageError`. The table of names is ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
