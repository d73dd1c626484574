"""The joint search for the best code: starts, smoothing homotopy, Levenberg-Marquardt, basin hopping, other norms."""

__all__: list[str] = []
