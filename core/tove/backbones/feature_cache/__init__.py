"""Frozen networks' tokens, kept in memory or on disk; `token_cache` is what a model has."""
