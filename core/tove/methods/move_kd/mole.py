"""MoLE: a mixture of LoRA experts in an encoder's FFN (MoVE-KD, arXiv 2501.01709).

    p = softmax(router(x))                     one row per token, the class token's too
    w = onehot(argmax p)                       routing "top1"; "dense": w = p
    inside:  h = act(fc1(x) + s sum_e w_e (B_e (A_e x + a_e) + b_e))          s = alpha / rank
             y = fc2(h)     + s sum_e w_e (B'_e (A'_e h + a'_e) + b'_e)
    around:  y = fc2(act(fc1(x))) + s sum_e w_e (B_e (A_e x + a_e) + b_e)     F(x) + E_i(x)

The argmax passes no gradient on, so a router of top-1 routing learns from the balance loss alone.
`router_gradient` mends that: "gate_scale" takes w_e = p_e for the chosen expert,
"straight_through" w_e = 1 + p_e - stop_gradient(p_e), which is 1 with the gradient of p_e.

Two forms compute the same numbers. "mask" runs all experts' A and B as one matrix each and zeroes
what a token's expert did not make: no number is read on the host, so it suits accelerators,
autocast and torch.compile, for 12 % more FLOPs than the FFN. "sorted" puts the tokens in the order
of their experts, which costs one read of their counts and saves the FLOPs: `sorted_lora`.
`benchmarks/mole_layer.py` measures both.

Shapes: B images, P positions, T = B * P tokens, D width, H the FFN's hidden width, E experts,
R rank, I and O a layer's width in and out.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tove.config.validation import Range
from tove.errors import ConfigError
from tove.methods.move_kd.sorted_lora import Permuted, SortedLoRALinear, draw_kept

__all__ = ["LoRAExperts", "MoLE", "ffn_layers", "record_routing"]

_FFN_LAYERS = (("fc1", "activation_fn", "fc2"), ("c_fc", "gelu", "c_proj"))


def ffn_layers(ffn: nn.Module) -> tuple[str, str, str] | None:
    """Return the names of an FFN's first layer, activation and second layer.

    transformers' CLIPMLP and open_clip's MLP are known; None for any other module.
    """
    known = (names for names in _FFN_LAYERS if all(hasattr(ffn, name) for name in names))
    return next(known, None)


class LoRAExperts(nn.Module):
    """The low-rank pairs of all experts next to one linear layer, stacked.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        num_experts: E.
        rank: R.
        init: of B; "kaiming" as released, "zero" lets the layer start unchanged.
        like: whose device and dtype the parameters get.

    Attributes:
        A: [E, R, I].
        A_bias: [E, R].
        B: [E, R, O], transposed against a linear layer's weight so that experts stack by rows.
        B_bias: [E, O].
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        num_experts: int,
        rank: int,
        init: Literal["kaiming", "zero"],
        like: Tensor,
    ) -> None:
        super().__init__()
        self.A = nn.Parameter(like.new_empty(num_experts, rank, d_in))
        self.A_bias = nn.Parameter(like.new_zeros(num_experts, rank))
        self.B = nn.Parameter(like.new_zeros(num_experts, rank, d_out))
        self.B_bias = nn.Parameter(like.new_zeros(num_experts, d_out))
        # Kaiming's uniform bound for a ReLU, sqrt(6 / fan in).
        nn.init.uniform_(self.A, -math.sqrt(6 / d_in), math.sqrt(6 / d_in))
        if init == "kaiming":
            nn.init.uniform_(self.B, -math.sqrt(6 / rank), math.sqrt(6 / rank))

    def biased_B(self) -> Tensor:
        """Return B with its bias as the last row, [E, R + 1, O]: the factor of (A x + a, 1)."""
        return torch.cat([self.B, self.B_bias[:, None]], 1)

    def add_to(self, y_TO: Tensor, x_TI: Tensor, weights_TE: Tensor, scale: float) -> Tensor:
        """Return y + scale * sum_e w_e (B_e (A_e x + a_e) + b_e), [T, O], by masking."""
        num_experts, rank, _ = self.A.shape
        u_TF = F.linear(x_TI, self.A.flatten(0, 1), self.A_bias.flatten())
        u1_TER1 = F.pad(u_TF.unflatten(-1, (num_experts, rank)), (0, 1), value=1.0)
        u1_TF = (u1_TER1 * weights_TE[..., None].to(u_TF.dtype)).flatten(-2)
        return torch.addmm(y_TO, u1_TF, self.biased_B().flatten(0, 1), alpha=scale)


class MoLE(nn.Module):
    """An FFN with a mixture of LoRA experts in it.

    Args:
        ffn: the FFN of a CLIP block; it becomes a part of this module, and whether it trains is
            the caller's choice.
        num_experts: E.
        rank: of every expert's pairs.
        alpha: the experts' output is scaled by alpha / rank.
        dropout: on the input of every A, in training; experts of dense routing share its draw.
        routing: "top1", or "dense": every expert by its probability.
        placement: "inside" adds a pair to both linear layers, "around" one to the whole FFN.
        init: of every B, "kaiming" or "zero"; every A is Kaiming-uniform, biases are zero.
        router_gradient: what the router learns from the task in top-1 routing; none at all,
            "gate_scale" or "straight_through".
        form: "mask" or "sorted"; "auto" sorts on a CPU and masks elsewhere. What "sorted" cannot
            do (dense routing, placement "around", autocast, torch.compile) is masked as well.

    Attributes:
        options: the arguments that make such a layer around another FFN, to be loaded into.

    Raises:
        ConfigError: the FFN is of no known kind, or a number is out of range.
    """

    def __init__(
        self,
        ffn: nn.Module,
        num_experts: Annotated[int, Range(1)] = 3,
        rank: Annotated[int, Range(1)] = 32,
        alpha: float = 1.0,
        dropout: Annotated[float, Range(0, 1, below=True)] = 0.05,
        routing: Literal["top1", "dense"] = "top1",
        placement: Literal["inside", "around"] = "inside",
        init: Literal["kaiming", "zero"] = "kaiming",
        router_gradient: Literal["none", "gate_scale", "straight_through"] = "none",
        form: Literal["auto", "mask", "sorted"] = "auto",
    ) -> None:
        super().__init__()
        names = ffn_layers(ffn)
        if names is None:
            raise ConfigError(
                f"A mixture of LoRA experts was to be put into a {type(ffn).__name__}, but it "
                "takes the FFN of transformers' CLIP (fc1, fc2) or of open_clip (c_fc, c_proj)."
            )
        self.ffn, self._names = ffn, names
        self.options = {
            "num_experts": num_experts,
            "rank": rank,
            "alpha": alpha,
            "dropout": dropout,
            "routing": routing,
            "placement": placement,
            "router_gradient": router_gradient,
        }
        self.scale, self.dropout, self.routing = alpha / rank, dropout, routing
        self.placement, self.router_gradient, self.form = placement, router_gradient, form
        self.record: list[Tensor] | None = None
        fc1, _, fc2 = self.layers()
        like = fc1.weight.detach()
        d_model, d_hidden = fc1.in_features, fc1.out_features
        options = (num_experts, rank, init, like)
        if placement == "inside":
            self.down = LoRAExperts(d_model, d_hidden, *options)
            self.up = LoRAExperts(d_hidden, fc2.out_features, *options)
        else:
            self.around = LoRAExperts(d_model, fc2.out_features, *options)
        self.router = nn.Linear(d_model, num_experts, device=like.device, dtype=like.dtype)

    def layers(self) -> tuple[Any, Any, Any]:
        """Return the FFN's first layer, activation and second layer."""
        first, act, second = self._names
        return getattr(self.ffn, first), getattr(self.ffn, act), getattr(self.ffn, second)

    def route(self, x: Tensor) -> Tensor:
        """Return the routing probabilities [..., E] of tokens [..., D], at least in float32."""
        scores = self.router(x)
        return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))

    def forward(self, x_BPD: Tensor) -> Tensor:
        """Run the FFN and every token's experts, [B, P, D]."""
        p_BPE = self.route(x_BPD)
        if self.record is not None:
            self.record.append(p_BPE)
        x_TD, p_TE = x_BPD.flatten(0, -2), p_BPE.flatten(0, -2)
        run = self._run_sorted if self._sorts(x_BPD) else self._run_masked
        return run(x_TD, p_TE).unflatten(0, x_BPD.shape[:-1])

    def _sorts(self, x: Tensor) -> bool:
        wanted = self.form == "sorted" or (self.form == "auto" and x.device.type == "cpu")
        if not wanted or self.routing == "dense" or self.placement == "around":
            return False
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
            return False
        fc1, _, fc2 = self.layers()
        return type(fc1) is nn.Linear and type(fc2) is nn.Linear  # not a LoRA's or quantised one

    def _chosen(self, p: Tensor) -> Tensor:
        """Return what the chosen expert's output is multiplied by, from its probability."""
        if self.router_gradient == "gate_scale":
            return p
        if self.router_gradient == "straight_through":
            return 1 + p - p.detach()
        return torch.ones_like(p)

    def _run_masked(self, x_TD: Tensor, p_TE: Tensor) -> Tensor:
        weights_TE = p_TE
        if self.routing == "top1":
            top_T = p_TE.argmax(-1, keepdim=True)
            onehot_TE = torch.zeros_like(p_TE).scatter(-1, top_T, 1.0)
            weights_TE = onehot_TE * self._chosen(p_TE)
        fc1, act, fc2 = self.layers()
        if self.placement == "around":
            y_TD = fc2(act(fc1(x_TD)))
            return self.around.add_to(y_TD, self._drop(x_TD), weights_TE, self.scale)
        h_TH = act(self.down.add_to(fc1(x_TD), self._drop(x_TD), weights_TE, self.scale))
        return self.up.add_to(fc2(h_TH), self._drop(h_TH), weights_TE, self.scale)

    def _run_sorted(self, x_TD: Tensor, p_TE: Tensor) -> Tensor:
        fc1, act, fc2 = self.layers()
        p_T, expert_T = p_TE.max(-1)
        order_T = expert_T.argsort(stable=True)
        back_T = order_T.argsort()
        counts = F.one_hot(expert_T, p_TE.shape[-1]).sum(0).tolist()
        chosen_T1 = self._chosen(p_T)[order_T, None].to(x_TD.dtype)
        x_TD = Permuted.apply(x_TD, order_T, back_T)
        h_TH = act(self._sorted_linear(fc1, self.down, x_TD, chosen_T1, counts))
        y_TD = self._sorted_linear(fc2, self.up, h_TH, chosen_T1, counts)
        sorted_back_TD: Tensor = Permuted.apply(y_TD, back_T, order_T)
        return sorted_back_TD

    def _sorted_linear(
        self, linear: nn.Linear, pairs: LoRAExperts, x_TI: Tensor, chosen_T1: Tensor, counts: list
    ) -> Tensor:
        kept = draw_kept(x_TI, self.dropout) if self.dropout and self.training else None
        lora = (pairs.A, pairs.A_bias, pairs.biased_B(), chosen_T1)
        y_TO: Tensor = SortedLoRALinear.apply(
            x_TI, linear.weight, linear.bias, *lora, kept, counts, self.scale
        )
        return y_TO

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def extra_repr(self) -> str:
        """Say what the printed submodules do not."""
        return f"{self.routing}, {self.placement}, router_gradient={self.router_gradient}"


@contextmanager
def record_routing(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the routing probabilities of every MoLE layer that runs, in the order they run.

    The list holds one [B, P, E] a layer, with its gradient; the layers let go of it on leaving, so
    that no graph outlives the step.
    """
    layers = [module for module in model.modules() if isinstance(module, MoLE)]
    probabilities: list[Tensor] = []
    for layer in layers:
        layer.record = probabilities
    try:
        yield probabilities
    finally:
        for layer in layers:
            layer.record = None
