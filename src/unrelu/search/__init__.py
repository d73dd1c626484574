"""The joint search for the best code: samples, independent restarts of descents, confidence, other norms."""

__all__: list[str] = []
