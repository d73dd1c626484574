"""Posterior draws: exact cases, simulation-based calibration, negative controls, speed beside samplers of others."""
