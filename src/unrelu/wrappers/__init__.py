"""Generators made of others: standardised, with nuisance parameters, several that share parameters."""
