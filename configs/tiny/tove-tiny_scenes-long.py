# The demo with four times the merging: what five minutes cannot hold. About ten minutes more.
_base_ = ["./tove-tiny_scenes.py"]

merging = dict(schedule=dict(steps=6000))
