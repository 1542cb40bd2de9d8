"""The commands of `python -m tove_plugins`, one a module; none imports torch before it must."""
