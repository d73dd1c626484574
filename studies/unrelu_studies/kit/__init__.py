"""What all studies share: running and journalling units, numbers in files, tables, pictures, instances and measures."""
