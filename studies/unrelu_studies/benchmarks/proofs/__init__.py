"""Proofs against a mixed-integer solver."""
