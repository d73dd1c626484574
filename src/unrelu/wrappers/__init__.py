"""Generators built from other generators: standardised, with nuisance parameters, or joined by shared parameters."""
