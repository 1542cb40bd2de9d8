"""What brings teacher and student to one grid and width (MoVE-KD's encoder adapter, and others).

    channel_token:  Y = ( GELU(X W1 + b1)^T W2 + b2 )^T       teacher's side; the paper's form
    resample:       Y = MLP(resample(X))                      teacher's side; any number of tokens
    student_head:   v' = head(v), compared with resample(X)   student's side

W1 mixes channels, W2 mixes tokens and thereby fixes the teacher's token count. A trainable map on
the teacher's side has a degenerate optimum, to say the student's mean whatever the teacher says:
log `output_variance` of what it gives. A head on the student's side has none.

Shapes: B images, M a teacher's tokens and C their width, N the student's tokens and D their width.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from tove.errors import ConfigError
from tove.modules.resample import resample_tokens

__all__ = ["ChannelThenToken", "ResampleThenMLP", "StudentHead", "make_adapter", "output_variance"]

Grid = tuple[int, int]


class ChannelThenToken(nn.Module):
    """Y = ( GELU(X W1 + b1)^T W2 + b2 )^T, the paper's adapter.

    Args:
        width_in: C.
        tokens_in: M.
        width_out: D.
        tokens_out: N.
    """

    def __init__(self, width_in: int, tokens_in: int, width_out: int, tokens_out: int) -> None:
        super().__init__()
        self.channel = nn.Linear(width_in, width_out)
        self.token = nn.Linear(tokens_in, tokens_out)

    def forward(self, x_BMC: Tensor) -> Tensor:
        """Map a teacher's tokens to the student's grid and width, [B, N, D].

        Raises:
            ConfigError: the teacher gives another number of tokens than W2 has columns.
        """
        if x_BMC.shape[1] != self.token.in_features:
            raise ConfigError(
                f"A teacher gave {x_BMC.shape[1]} tokens, but its channel-then-token adapter was "
                f"made for {self.token.in_features}; use the adapter 'resample' where images are "
                "of several sizes."
            )
        hidden_BMD = F.gelu(self.channel(x_BMC.to(self.channel.weight.dtype)))
        return self.token(hidden_BMD.transpose(1, 2)).transpose(1, 2)


class ResampleThenMLP(nn.Module):
    """Y = W2 GELU(W1 resample(X) + b1) + b2: an adapter for any grid.

    Args:
        width_in: C.
        width_out: D.
        hidden: width between the layers; None is D.
    """

    def __init__(self, width_in: int, width_out: int, hidden: int | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(width_in, hidden or width_out)
        self.outer = nn.Linear(hidden or width_out, width_out)

    def forward(self, x_BMC: Tensor, grid_in: Grid, grid_out: Grid) -> Tensor:
        """Map a teacher's tokens to the student's grid and width, [B, N, D].

        W1 is linear and resampling keeps constants, so W1 runs on whichever grid is smaller.
        """
        x_BMC = x_BMC.to(self.inner.weight.dtype)
        if grid_in[0] * grid_in[1] > grid_out[0] * grid_out[1]:
            hidden_BND = self.inner(resample_tokens(x_BMC, grid_in, grid_out))
        else:
            hidden_BND = resample_tokens(self.inner(x_BMC), grid_in, grid_out)
        return self.outer(F.gelu(hidden_BND))


class StudentHead(nn.Module):
    """v' = head(v): the student says a teacher's token, and the teacher's side stays fixed.

    Args:
        width_in: D.
        width_out: C.
        hidden: width of a hidden layer; None is a linear head.
    """

    def __init__(self, width_in: int, width_out: int, hidden: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(hidden or width_in, width_out)]
        if hidden:
            layers = [nn.Linear(width_in, hidden), nn.GELU(), *layers]
        self.head = nn.Sequential(*layers)

    def forward(self, v_BND: Tensor) -> Tensor:
        """Predict a teacher's tokens on the student's grid, [B, N, C]."""
        return self.head(v_BND)


def make_adapter(
    kind: Literal["channel_token", "resample", "student_head"],
    teacher: tuple[int, Grid],
    student: tuple[int, Grid],
    hidden: int | None = None,
) -> ChannelThenToken | ResampleThenMLP | StudentHead:
    """Make the adapter between a teacher and the student.

    Args:
        kind: which form, see the module.
        teacher: token width and grid of the teacher.
        student: token width and grid of the student.
        hidden: width of a hidden layer, where the form has one to choose.
    """
    (width_in, grid_in), (width_out, grid_out) = teacher, student
    if kind == "channel_token":
        tokens_in, tokens_out = grid_in[0] * grid_in[1], grid_out[0] * grid_out[1]
        return ChannelThenToken(width_in, tokens_in, width_out, tokens_out)
    if kind == "resample":
        return ResampleThenMLP(width_in, width_out, hidden)
    return StudentHead(width_out, width_in, hidden)


def output_variance(tokens_BND: Tensor, valid_BN: Tensor | None = None) -> Tensor:
    """Return the variance over images and tokens, averaged over channels: a scalar for the log.

    Beside the student's own it tells an adapter that says one thing whatever the teacher says.
    """
    x_TD = tokens_BND.detach().flatten(0, 1)
    x_TD = x_TD if x_TD.dtype.itemsize >= 4 else x_TD.float()
    if valid_BN is None:
        return x_TD.var(0, correction=0).mean()
    share_T1 = valid_BN.flatten().to(x_TD.dtype)[:, None]
    share_T1 = share_T1 / share_T1.sum().clamp(min=1)
    mean_D = (x_TD * share_T1).sum(0)
    return ((x_TD - mean_D).square() * share_T1).sum(0).mean()
