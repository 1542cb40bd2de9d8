"""Errors of the SDK. Each message is a sentence that tells what, where and how to mend it."""

__all__ = [
    "CommandError",
    "ExpertBuildError",
    "ExpertNotAvailable",
    "ExpertSpecError",
    "MethodImportError",
    "MethodNotAvailable",
    "MethodSpecError",
    "NotAvailable",
    "SpecError",
]


class CommandError(ValueError):
    """A command line asks for what there is not; its user mends it."""


class SpecError(ValueError):
    """A spec is incomplete or contradicts itself; the plugin's author mends it."""


class ExpertSpecError(SpecError):
    """An `ExpertSpec` is; or what brings expert specs gives something else."""


class MethodSpecError(SpecError):
    """A `MethodSpec` is."""


class NotAvailable(LookupError):
    """Something was asked for that no active plugin offers."""


class ExpertNotAvailable(NotAvailable):
    """An expert was asked for that no active plugin offers."""


class MethodNotAvailable(NotAvailable):
    """A method was asked for that no active plugin offers."""


class ExpertBuildError(RuntimeError):
    """A known expert could not be built: requirement, weights, options or its own factory."""


class MethodImportError(RuntimeError):
    """A known method's module could not be imported: a requirement, or the module itself."""
