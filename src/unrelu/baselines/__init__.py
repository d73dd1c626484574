"""Methods of others, as they are published: gradient descent, Adam, PLUGIn, ILO, projected gradient."""

__all__: list[str] = []
