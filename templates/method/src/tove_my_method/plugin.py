"""What tove is told about the method before anything heavy is imported."""

from collections.abc import Iterator

from tove_plugins import MethodSpec, hookimpl


@hookimpl
def tove_methods() -> Iterator[MethodSpec]:
    """Yield the specs of this package's methods."""
    yield MethodSpec(
        name="my_method",
        module="tove_my_method.method",
        types=("MODELS.MyMethod",),
        summary="A sigmoid gate per channel over the sum of the experts.",
        paper="",
        licence="Apache-2.0",
    )
