"""The tables of the documentation, made from the numbers in ``studies/results`` alone."""
