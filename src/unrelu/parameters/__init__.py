"""Coordinates of codes: their names, bounds and prior."""
