"""Training of the generators that are committed as weights: those of :mod:`unrelu.zoo` and the plain VAE decoders."""
