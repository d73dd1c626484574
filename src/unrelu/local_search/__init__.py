"""From a code down to a local optimum: Levenberg-Marquardt, compiled descents, linear programs around a code."""

__all__: list[str] = []
