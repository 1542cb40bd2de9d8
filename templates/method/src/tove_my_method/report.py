"""What the report shows of the method: how far the gate of each channel opens."""

from tove.api import Material, Section, Table, section

__all__ = ["channel_section"]

SHOWN = 5  # channels at either end


@section(45)
def channel_section(material: Material) -> Section | None:
    """Tell how much of the experts each channel lets through; nothing of another method."""
    gate = getattr(material.model, "channel_gate", None)
    if gate is None:
        return None
    open_D = gate.scores.detach().sigmoid().cpu()
    order = open_D.argsort(descending=True).tolist()
    shown = order if len(order) <= 2 * SHOWN else order[:SHOWN] + order[-SHOWN:]
    told = (
        f"Of what the experts say, a channel lets {100 * open_D.mean():.0f} % through on average, "
        f"{100 * open_D.min():.0f} % at least and {100 * open_D.max():.0f} % at most."
    )
    rows = [(f"channel {channel}", f"{100 * open_D[channel]:.1f} %") for channel in shown]
    return Section(
        "my_method", "How far the gate opens", [told], Table(("", "let through"), rows, (1,))
    )
