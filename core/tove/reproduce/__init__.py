"""Claims about a method, tested by grids of ordinary runs."""
