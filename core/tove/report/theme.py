"""How pictures look: fonts, sizes, a light and a dark dress, and one colour per expert.

The colours are Okabe and Ito's, then Tol's muted set: both can be told apart by colour-blind
readers. A slot keeps its colour in every picture of a report. Pictures are drawn narrow, so that
their letters stay readable on a phone.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DARK",
    "LIGHT",
    "Picture",
    "Theme",
    "draw",
    "plain_log_scale",
    "png",
    "settings_of",
    "slot_colours",
]

# Okabe-Ito without black and yellow, which vanish on one of the two backgrounds.
_OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_TOL_MUTED = ("#882255", "#999933", "#44AA99", "#AA4499", "#332288", "#DDCC77")
_DPI = 160


@dataclass(frozen=True, slots=True)
class Theme:
    """One dress.

    Attributes:
        name: "light" or "dark".
        surface: the background.
        ink: text and the main line.
        muted: secondary text and lines of comparison.
        faint: rules.
        accent: fills that stand for ToVE; no expert has this colour.
    """

    name: str
    surface: str
    ink: str
    muted: str
    faint: str
    accent: str


LIGHT = Theme("light", "#ffffff", "#1c2024", "#60666d", "#dfe2e6", "#5b6b7d")
DARK = Theme("dark", "#17191c", "#e6e8eb", "#a0a6ad", "#363b41", "#9fb0c3")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the report.

    Attributes:
        name: of its file, without ending.
        alt: what it shows, for those who cannot see it.
        caption: what one sees.
        light: PNG.
        dark: PNG.
        inches: its width; pages show all pictures at one scale, so that their type is of one size.
    """

    name: str
    alt: str
    caption: str
    light: bytes
    dark: bytes
    inches: float = 5.0


def slot_colours(slots: Sequence[str]) -> dict[str, str]:
    """Give every slot a colour; beyond twelve, hues at equal steps."""
    fixed = (*_OKABE_ITO, *_TOL_MUTED)
    if len(slots) <= len(fixed):
        return dict(zip(slots, fixed, strict=False))
    from matplotlib.colors import hsv_to_rgb, to_hex

    count = len(slots)
    return {
        slot: to_hex(tuple(hsv_to_rgb((i / count, 0.75, 0.85 if i % 2 else 0.6)).tolist()))
        for i, slot in enumerate(slots)
    }


def draw(name: str, alt: str, caption: str, figure: Callable[[Theme], "Figure"]) -> Picture:
    """Draw a figure in both dresses; a figure is made for one theme by `figure`."""
    light, dark = png(figure, LIGHT), png(figure, DARK)
    pixels = int.from_bytes(light[16:20], "big")  # of its header
    return Picture(name, alt, caption, light, dark, pixels / _DPI)


def png(figure: Callable[[Theme], "Figure"], theme: Theme) -> bytes:
    """Draw a figure in one dress."""
    import matplotlib

    with matplotlib.rc_context(settings_of(theme)):
        buffer = io.BytesIO()
        # A Figure made without pyplot draws with Agg and leaves no global state behind.
        figure(theme).savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def settings_of(theme: Theme) -> dict[Any, Any]:
    """Return matplotlib's settings of a dress."""
    return {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.edgecolor": theme.faint,
        "axes.facecolor": theme.surface,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.ink,
        "figure.constrained_layout.use": True,
        "figure.facecolor": theme.surface,
        "grid.color": theme.faint,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.labelcolor": theme.ink,
        "savefig.facecolor": theme.surface,
        "text.color": theme.ink,
        "text.parse_math": False,
        "xtick.color": theme.faint,
        "xtick.labelcolor": theme.muted,
        "ytick.color": theme.faint,
        "ytick.labelcolor": theme.muted,
    }


def plain_log_scale(axes: "Axes", axis: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, its ticks plain numbers: mathematical text is not parsed here."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set(**{f"{axis}scale": "log"})
    place = axes.xaxis if axis == "x" else axes.yaxis
    place.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    place.set_minor_formatter(NullFormatter())
