"""What `auto` and its peers make of large generators: pictures, slow videos, and wide dense networks."""
