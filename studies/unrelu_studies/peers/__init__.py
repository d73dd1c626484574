"""Published methods of other authors that the library does not offer, to measure against.

Each is a callable ``method(problem) -> Inversion``, which :func:`unrelu.invert` takes in place of a name. They are for
the settings of the studies: dense ReLU layers, linear measurements, outputs of about 1, neither bounds nor a prior.
"""
