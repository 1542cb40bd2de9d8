"""What the checks look at: an installed method, and models of it on small parts."""

from collections.abc import Iterator
from typing import Any

from tove.config.overlay import merged_settings
from tove.testing._small import build_small, small_settings
from tove_plugins import MethodEntry, discover_methods, import_method
from tove_plugins.testing import SkipCheck

__all__ = ["MethodSubject"]


class MethodSubject:
    """An installed method.

    Args:
        method: its name, or its entry in the catalog.
        device: where its models are built.
    """

    def __init__(self, method: str | MethodEntry, device: str = "cpu") -> None:
        entry = discover_methods().get(method) if isinstance(method, str) else method
        self.entry, self.spec, self.device = entry, entry.spec, device

    @property
    def name(self) -> str:
        """The method's name."""
        return self.spec.name

    def __repr__(self) -> str:
        return f"MethodSubject({self.name!r})"

    def models(self) -> Iterator[str]:
        """Yield the names of its models, registered.

        Raises:
            SkipCheck: it has none, only stages say.
        """
        import_method(self.name)
        names = [text.partition(".")[2] for text in self.spec.types if text.startswith("MODELS.")]
        if not names:
            raise SkipCheck("The method declares no model.")
        yield from names

    def settings(self, kind: str, **over: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the settings of a small model, with others laid over them."""
        return merged_settings(small_settings(self.spec, kind), over)

    def build(self, kind: str, seed: int = 0, **over: Any) -> Any:  # noqa: ANN401
        """Build a small model of one of its types."""
        return build_small(self.settings(kind, **over), seed).to(self.device)
