"""unrelu inside other libraries: a scikit-learn transformer and a deepinv reconstructor.

Each is imported at its first use; without its library, that raises a :class:`~unrelu.errors.MissingPackageError`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
