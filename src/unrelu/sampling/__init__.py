"""Draws from the posterior of codes: sampling, convergence, and what the draws say."""
