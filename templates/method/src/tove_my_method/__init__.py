"""A method for tove."""
