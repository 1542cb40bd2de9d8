"""What runs a config: stages, training loop, checkpoints, rows."""
