"""Frozen networks' tokens, kept."""
