"""The conformance kit for methods: how the author of one knows that it is right.

`check_method("my_method")` runs every check on small parts, offline, and raises one error that
names each check that failed; `parametrize_with_method_checks` makes a pytest test of each.
`small_model` and `small_batch` are for tests of a method's own. The kit for experts is
`tove_plugins.testing`.
"""

from tove.testing import _built, _static  # noqa: F401 - they fill the list of checks
from tove.testing._checks import METHOD_CHECKS, check_method, parametrize_with_method_checks
from tove.testing._small import small_batch, small_model
from tove.testing._subject import MethodSubject

__all__ = [
    "METHOD_CHECKS",
    "MethodSubject",
    "check_method",
    "parametrize_with_method_checks",
    "small_batch",
    "small_model",
]
