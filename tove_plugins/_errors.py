"""Errors of the SDK. Each message is a sentence that tells what, where and how to mend it."""

__all__ = ["CommandError", "ExpertBuildError", "ExpertNotAvailable", "ExpertSpecError"]


class CommandError(ValueError):
    """A command line asks for what there is not; its user mends it."""


class ExpertSpecError(ValueError):
    """A spec is incomplete or contradicts itself; the plugin's author mends it."""


class ExpertNotAvailable(LookupError):
    """An expert was asked for that no active plugin offers."""


class ExpertBuildError(RuntimeError):
    """A known expert could not be built: requirement, weights, options or its own factory."""
