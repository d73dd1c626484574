"""Decoders as people train them, observations of them, and a heavy search that judges other searches."""
