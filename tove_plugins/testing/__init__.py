"""The conformance kit: how the author of an expert knows that it is right.

`check_expert("my_expert")` runs every check on the small offline build and raises one error that
names each check that failed; `parametrize_with_expert_checks` makes a pytest test of each.
Importing this package imports torch; importing `tove_plugins` does not.
"""

from tove_plugins.testing import (  # noqa: F401 - they fill the registry
    _built,
    _global_state,
    _library,
    _normalisation,
    _scale,
    _spatial,
    _static,
)
from tove_plugins.testing._registry import (
    Check,
    CheckList,
    ExpertCheckError,
    SkipCheck,
    all_checks,
    fail,
)
from tove_plugins.testing._run import (
    CheckResult,
    check_expert,
    choose_checks,
    parametrize_with_expert_checks,
    run_check,
    skipping,
)
from tove_plugins.testing._static import require_light_listing
from tove_plugins.testing._subject import Subject

__all__ = [
    "Check",
    "CheckList",
    "CheckResult",
    "ExpertCheckError",
    "SkipCheck",
    "Subject",
    "all_checks",
    "check_expert",
    "choose_checks",
    "fail",
    "parametrize_with_expert_checks",
    "require_light_listing",
    "run_check",
    "skipping",
]
