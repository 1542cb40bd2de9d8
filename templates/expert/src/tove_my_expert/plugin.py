"""What tove is told about the expert before anything heavy is imported."""

from collections.abc import Iterator

from tove_plugins import ExpertSpec, ImageSpec, TokenSpec, Weights, hookimpl


@hookimpl
def tove_experts() -> Iterator[ExpertSpec]:
    """Yield the specs of this package's experts."""
    yield ExpertSpec(
        name="my_expert",
        task="edges",
        factory="tove_my_expert.expert:MyExpert",
        tokens=TokenSpec(width=16, grid=(8, 8), kind="features"),
        image=ImageSpec(size=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        weights=Weights(
            source="pkg:tove_my_expert/weights/my_expert.safetensors",
            sha256="e099a53b30aba12bf4b82817a1baa452b2ba5d10b2413b651bb7b77abee40a13",
            size_mb=0.0004,
            licence="Apache-2.0",
            trained_on="nothing: Sobel's kernel, turned",
            commercial_use=True,
        ),
        options={"spacing": 1},
        description="Strength of edges in eight directions, per cell.",
    )
