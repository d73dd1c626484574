"""unrelu inside other libraries: a scikit-learn transformer and a deepinv reconstructor.

Each needs an optional library, so it is imported at its first use. Without the library, that raises a
:class:`~unrelu.errors.MissingPackageError`. The table of names is ``__init__.pyi``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
