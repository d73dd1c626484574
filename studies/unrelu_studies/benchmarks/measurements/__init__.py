"""Measurements of other kinds than linear ones with Gaussian noise."""
