"""Methods of others, as they are published: gradient descent, Adam, PLUGIn, ILO, projected gradient."""
