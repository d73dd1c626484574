"""Measurements as scientists have them: emulators in a box with an error bar an output, and functions of the output."""
