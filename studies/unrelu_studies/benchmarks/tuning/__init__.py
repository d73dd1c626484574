"""How long searches and their steps take, on the generators to tune on."""
