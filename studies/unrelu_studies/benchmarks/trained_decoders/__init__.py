"""What the verdict is worth on decoders as people train them."""
