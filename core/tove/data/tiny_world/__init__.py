"""The tiny world: a batched renderer and its language, small enough to run the whole method."""
