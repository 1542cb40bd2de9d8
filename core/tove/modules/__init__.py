"""Layers and tensor helpers that no method owns."""
