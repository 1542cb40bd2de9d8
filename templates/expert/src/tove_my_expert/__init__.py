"""A vision expert for tove."""
