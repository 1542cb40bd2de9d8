"""First-party experts of tove: each imports its library only when it is built."""
