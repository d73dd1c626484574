"""Processes: how they start, and runs over data sets."""
