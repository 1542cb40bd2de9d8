"""Import a method's module, which registers its classes; what fails is told in a sentence."""

import importlib

from tove_plugins._discovery import discover_methods
from tove_plugins._errors import MethodImportError
from tove_plugins._global_state import kept_global_state
from tove_plugins._requirements import unmet_requirements

__all__ = ["import_method"]


def import_method(name: str) -> None:
    """Import the module of an installed method; again is harmless.

    Raises:
        MethodNotAvailable: No active plugin offers it, or more than one does.
        MethodImportError: A requirement is not met, or the module cannot be imported.
    """
    entry = discover_methods().get(name)
    spec, label = entry.spec, f"method '{name}' ({entry.origin})"
    unmet = unmet_requirements(spec.requires)
    if unmet:
        needs = " and ".join(f"{requirement} ({problem})" for requirement, problem in unmet)
        command = " ".join(f"'{requirement}'" for requirement, _ in unmet)
        raise MethodImportError(f"The {label} needs {needs}. Mend it with: pip install {command}")
    try:
        with kept_global_state():
            importlib.import_module(spec.module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that calls sys.exit() is named as well
        what = " ".join(str(error).split()).rstrip(".")
        raise MethodImportError(
            f"The module {spec.module} of {label} cannot be imported: {type(error).__name__}: "
            f"{what}. Mend it with: pip install -U {entry.distribution}, or write to its author."
        ) from error
