"""The specs of the first-party experts, a module a family: light data, no framework imported."""
