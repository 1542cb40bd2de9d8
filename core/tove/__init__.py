"""Transfer the knowledge of a hub of frozen vision experts into one vision encoder.

`tove.methods.tove.model` composes the parts; `tove.registry` holds the names that config files use.
"""
