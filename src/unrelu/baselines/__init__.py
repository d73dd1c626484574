"""Published methods of other authors: gradient descent, Adam, PLUGIn, ILO, projected gradient."""
