"""What the library's constants are learned from, on the generators to tune on."""
