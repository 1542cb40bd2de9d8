"""Frozen vision experts: found, built, run, and on what terms."""
