"""CLIP as plain tokens, through two libraries, and back into their formats."""
