"""Every number of the MoVE-KD fixtures: the released code's own, and the paper's equations."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from tove.backbones.vit import tower_of
from tove.methods.move_kd.attention_weights import (
    class_attention,
    teacher_weights,
    token_weights,
    with_clip_share,
)
from tove.methods.move_kd.balance import routing_balance
from tove.methods.move_kd.loss import distillation_loss, token_errors
from tove.methods.move_kd.mole import MoLE, record_routing
from tove.methods.move_kd.mole_injection import inject_mole
from tove.methods.move_kd.released import Released
from tove.methods.move_kd.sam_layout import released_sam_tokens
from tove.methods.move_kd.teacher_adapter import ChannelThenToken

VISION = "model.vision_tower.vision_tower.vision_model."
TEXT_WEIGHT, KD_WEIGHT, BALANCE_WEIGHT = 0.001, 0.5, 0.01


@pytest.fixture(scope="module")
def released(oracle):
    return oracle.read("movekd_released")


@pytest.fixture(scope="module")
def paper(oracle):
    return oracle.read("movekd_paper")


class Tower(nn.Module):
    """CLIP's blocks around transformers' modules: hidden states before the last block."""

    def __init__(self, config):
        super().__init__()
        options = {"image_size": config["image"], "patch_size": config["patch"]}
        whole = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config["width"],
                intermediate_size=config["ffn"],
                num_attention_heads=config["heads"],
                num_hidden_layers=config["layers"],
                hidden_act=config["act"],
                layer_norm_eps=config["layer_norm_eps"],
                attn_implementation="sdpa",
                **options,
            )
        ).double()
        # A CLIPVisionModel of transformers 5 is the tower itself.
        self.model = nn.ModuleDict({"vision_model": tower_of(whole)})
        self.eval()

    def blocks(self):
        yield from enumerate(self.model.vision_model.encoder.layers[:-1])

    def forward(self, images):
        """Return the hidden states, [0] being what enters the first block."""
        return self.model["vision_model"](images, output_hidden_states=True).hidden_states


def make_world(oracle, released, **mole):
    """Student with MoLE, CLIP teacher, adapters, projector: filled as the fixture's."""
    config, values = released["config"], oracle.inputs(released["whole"]["inputs"])
    for name in values:
        if name.endswith("router.weight"):
            values[name] = values[name] * 2
    prefixes = {"student.": VISION, "mm_projector.": "model.mm_projector.", "": ""}
    keys = {
        next(new + k[len(old) :] for old, new in prefixes.items() if k.startswith(old)): v
        for k, v in values.items()
    }
    found = Released.from_keys(keys)
    student, teacher = Tower(config), Tower(config)
    inject_mole(student, "all", num_experts=3, rank=config["rank"], alpha=config["alpha"], **mole)
    state = dict(found.vision)
    if mole.get("placement") == "around":
        for name in [name for name in state if ".mlp.down." in name or ".mlp.up." in name]:
            value, side = state.pop(name), name.split(".mlp.")[1]
            if side.startswith("down.A") or side.startswith("up.B"):
                state[name.replace(".down.", ".around.").replace(".up.", ".around.")] = value
    student.model.load_state_dict(state)
    clip = {k.removeprefix("clip_teacher."): v for k, v in values.items() if "clip_teacher" in k}
    teacher.model.vision_model.load_state_dict(clip)
    adapters = {
        "eva": ChannelThenToken(12, 16, 32, 25),
        "convnext": ChannelThenToken(20, 9, 32, 25),
    }
    for name, adapter in adapters.items():
        adapter.double().load_state_dict(found.adapters[name])
    projector = nn.Sequential(nn.Linear(32, 24), nn.GELU(), nn.Linear(24, 24)).double()
    projector.load_state_dict(found.projector)
    return SimpleNamespace(
        student=student,
        teacher=teacher.requires_grad_(False),
        adapters=adapters,
        projector=projector,
        images=values["images"],
        tokens={
            "eva": values["eva_map"].flatten(2).transpose(1, 2),
            "convnext": values["convnext_tokens"],
        },
        embed_tokens=values["embed_tokens.weight"].clone().requires_grad_(),
    )


def distil(world, tokens="paper", teachers="paper", bal="pooled", valid=None, has_image=None):
    """Run the modules as a model composes them."""
    with record_routing(world.student) as routing:
        hidden = world.student(world.images)
    seen = world.teacher(world.images)
    attention = class_attention(world.teacher.model.vision_model.encoder.layers[0], seen[0])
    adapted = {name: world.adapters[name](x) for name, x in world.tokens.items()}
    errors = [token_errors(hidden[1][:, 1:], y) for y in (seen[1][:, 1:], *adapted.values())]
    weights = teacher_weights(seen[1][:, 0], [*adapted.values()], teachers)
    weights = with_clip_share(weights)
    token_weight = token_weights(attention, tokens, valid)
    distilled = distillation_loss(torch.stack(errors, 1), weights, token_weight, valid, has_image)
    return SimpleNamespace(
        kd=distilled.loss,
        balance=routing_balance(routing, bal),
        by_teacher=distilled.by_teacher_BT,
        teacher_weight=weights,
        token_weight=token_weight,
        attention=attention,
        adapted=adapted,
        hidden=hidden,
        seen=seen,
        routing=routing,
    )


def gradients(world):
    """Every gradient by the fixture's name; what has none is absent."""
    grads = {}
    for name, parameter in world.student.model.named_parameters():
        if parameter.grad is not None:
            placed = name.replace("around.A", "down.A").replace("around.B", "up.B")
            grads[placed] = parameter.grad
    adapters = {
        name: {key: p.grad for key, p in adapter.named_parameters() if p.grad is not None}
        for name, adapter in world.adapters.items()
    }
    projector = {k: p.grad for k, p in world.projector.named_parameters() if p.grad is not None}
    keys = Released(grads, projector, adapters).to_keys()
    return {key.replace(VISION, "student."): value for key, value in keys.items()}


def check_gradients(oracle, world, expected):
    found = gradients(world)
    for name, numbers in expected.items():
        oracle.check_grad(found.get(name), numbers, name)


# --- the released code ---------------------------------------------------------------------


def test_adapter(oracle, released):
    case = released["adapter"]
    values = oracle.inputs(case["inputs"])
    adapter = ChannelThenToken(12, 16, 32, 25).double()
    names = {"channel.weight": "W1", "channel.bias": "b1", "token.weight": "W2", "token.bias": "b2"}
    adapter.load_state_dict({own: values[name] for own, name in names.items()})
    x = values["X"].requires_grad_()
    y = adapter(x)
    oracle.check(y, case["Y"])
    (y * oracle.probe(y.shape)).sum().backward()
    oracle.check_grad(x.grad, case["grad"]["X"])
    for own, name in names.items():
        oracle.check_grad(adapter.get_parameter(own).grad, case["grad"][name])


@pytest.mark.parametrize("form", ["mask", "sorted"])
@pytest.mark.parametrize("case", ["sparse", "dense"])
def test_mole(oracle, released, case, form):
    config, values = released["config"], oracle.inputs(released["mole"]["inputs"])
    expected = deepcopy(released["mole"][case])
    x = values.pop("x").requires_grad_()
    values["router.weight"] = values["router.weight"] * 2
    tower = Tower(config)
    prefix = f"{VISION}encoder.layers.0.mlp."
    state = Released.from_keys({prefix + key: value for key, value in values.items()}).vision
    routing = {"sparse": "top1", "dense": "dense"}[case]
    options = {"rank": config["rank"], "alpha": config["alpha"], "form": form}
    ffn = tower.model.vision_model.encoder.layers[0].mlp
    mole = MoLE(ffn, routing=routing, **options).eval()
    own = "vision_model.encoder.layers.0.mlp."
    mole.load_state_dict({key.removeprefix(own): value for key, value in state.items()})
    with record_routing(mole) as probabilities:
        y = mole(x)
    oracle.check(y, expected["y"])
    oracle.check(probabilities[0], expected["probs"])
    index = probabilities[0].argmax(-1).flatten()
    assert index.bincount().tolist() == expected["onehot_sum_per_expert"]
    assert index.tolist() == (expected["index"] or index.tolist())
    top = probabilities[0].topk(2, -1).values
    oracle.close((top[..., 0] - top[..., 1]).min().detach(), expected["smallest_margin"])
    (y * oracle.probe(y.shape)).sum().backward()
    oracle.check_grad(x.grad, expected["grad"].pop("x"))
    grads = {own + k: p.grad for k, p in mole.named_parameters() if p.grad is not None}
    found = Released(grads).to_keys()
    for name, numbers in expected["grad"].items():
        oracle.check_grad(found.get(prefix + name), numbers, name)


def test_initialisation(oracle, released):
    bounds = released["init"]
    ffn = nn.Module()
    ffn.fc1, ffn.activation_fn, ffn.fc2 = nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)
    down = MoLE(ffn).down
    for weight, bound in ((down.A, "lora_A_bound"), (down.B, "lora_B_bound")):
        assert 0.999 * bounds[bound] < weight.abs().max() <= bounds[bound]
    assert down.A_bias.abs().max() == down.B_bias.abs().max() == 0
    assert MoLE(ffn, init="zero").down.B.abs().max() == 0
    # What the release adds to fc1 at step 0, of inputs of unit variance.
    added = down.add_to(torch.zeros(2000, 4096), torch.randn(2000, 1024), torch.eye(3)[:1], 1 / 32)
    assert added.std().item() == pytest.approx(bounds["delta_std_unit_input_eval"], rel=0.1)


def test_towers_of_the_whole(oracle, released):
    world = make_world(oracle, released)
    expected = released["whole"]
    out = distil(world, "released", "released")
    oracle.check(out.hidden[1], expected["student"]["hidden_-2"])
    oracle.check(out.hidden[2], expected["student"]["hidden_-1"])
    routing = torch.stack(out.routing)
    oracle.check(routing, expected["student"]["routing_probs_LBNE"])
    counts = [layer.argmax(-1).flatten().bincount().tolist() for layer in routing]
    assert counts == expected["student"]["tokens_per_layer_and_expert"]
    teacher = expected["teacher"]
    oracle.check(token_weights(out.attention, "as_is"), teacher["attention_cls_row"])
    oracle.check(out.token_weight, teacher["token_weight"])
    oracle.close(25 * out.token_weight.max(), teacher["token_weight_over_uniform_max"])
    oracle.check(out.seen[1][:, 0], teacher["cls"])
    for column, adapted in enumerate(out.adapted.values()):
        scores = (out.seen[1][:, :1] * adapted).sum(-1).mean(-1).detach()
        oracle.close(scores, [row[column] for row in expected["raw_teacher_scores"]])


CASES = ["sparse_tokens_teachers", "sparse_plain", "sparse_saturated", "dense_tokens_teachers"]


@pytest.mark.parametrize("form", ["mask", "sorted"])
@pytest.mark.parametrize("name", CASES)
def test_released_losses(oracle, released, name, form):
    case = released["whole"]["cases"][name]
    world = make_world(oracle, released, routing="dense" if "dense" in name else "top1", form=form)
    if name == "sparse_saturated":
        with torch.no_grad():
            for parameter in world.adapters["eva"].token.parameters():
                parameter.mul_(40)
    switches = case["switches"]
    tokens = "released" if switches["token_weight"] else "none"
    out = distil(world, tokens, "released" if switches["teacher_weight"] else "uniform")
    embeds = insert_images(world, released["text"], out.hidden[1][:, 1:])
    text = TEXT_WEIGHT * (embeds * oracle.probe(embeds.shape, 1)).sum()
    loss = text + KD_WEIGHT * out.kd + BALANCE_WEIGHT * out.balance
    if "text_probe" in case:
        oracle.close(text.detach(), case["text_probe"])
    oracle.close(out.kd.detach(), case["kd"])
    oracle.close(out.balance.detach(), case["balance"])
    oracle.close(loss.detach(), case["loss"])
    if "once" in case:
        oracle.close(out.teacher_weight[:, 1:].detach() / 0.2, case["twice"])
    loss.backward()
    check_gradients(oracle, world, case["grad"])


@pytest.mark.parametrize("alone", ["kd", "balance"])
def test_released_parts_alone(oracle, released, alone):
    case = released["whole"]["cases"][f"sparse_{alone}_alone"]
    world = make_world(oracle, released)
    out = distil(world, "released", "released")
    loss = KD_WEIGHT * out.kd if alone == "kd" else BALANCE_WEIGHT * out.balance
    oracle.close(loss.detach(), case["loss"])
    # The fixture's losses are one graph: what a term does not reach has a gradient of zeros.
    embeds = insert_images(world, released["text"], out.hidden[1][:, 1:])
    (loss + 0 * (out.kd + out.balance + embeds.sum())).backward()
    check_gradients(oracle, world, case["grad"])


def insert_images(world, text, tokens):
    """Put the projected image tokens in the place of -200, pad on the right with zeros."""
    image, pad, rows = text["image_token"], text["pad_id"], []
    for row, ids in enumerate(text["input_ids"]):
        place = ids.index(image)
        words = torch.tensor([word for word in ids if word not in (image, pad)])
        words = world.embed_tokens[words]
        rows.append(torch.cat([words[:place], world.projector(tokens[row]), words[place:]]))
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def test_projector_in_the_text(oracle, released):
    world = make_world(oracle, released)
    embeds = insert_images(world, released["text"], world.student(world.images)[1][:, 1:])
    oracle.check(embeds, released["insertion"]["inputs_embeds"])


def test_the_release_distils_black_images(oracle, released):
    world = make_world(oracle, released)
    world.images[1] = 0
    out = distil(world, "released", "released")
    oracle.close(out.kd.detach(), released["text_only"]["kd_text_only"])


def test_sam_layout(oracle, released):
    layout = released["sam_layout"]
    right = torch.arange(32.0).view(1, 8, 2, 2).flatten(2).transpose(1, 2)
    assert right[0].tolist() == layout["correct_BNC"]
    assert released_sam_tokens(right, (2, 2))[0].tolist() == layout["released_BNC"]


# --- the paper's equations, and one switch moved at a time -------------------------------------


def test_paper(oracle, released, paper):
    world, expected = make_world(oracle, released), paper["paper"]
    out = distil(world)
    loss = KD_WEIGHT * out.kd + BALANCE_WEIGHT * out.balance
    oracle.close(out.kd.detach(), expected["kd"])
    oracle.close(out.balance.detach(), expected["balance"])
    oracle.close(loss.detach(), expected["kd_and_balance"])
    oracle.check(out.token_weight, expected["token_weight"])
    oracle.close(out.token_weight.sum(-1), expected["token_weight_rows_sum"])
    oracle.close(25 * out.token_weight.max(), expected["token_weight_over_uniform_max"])
    oracle.close(out.teacher_weight, expected["teacher_weight"])
    oracle.close(out.by_teacher, expected["per_teacher_per_masked_mean"])
    oracle.check(out.adapted["eva"], expected["adapted_eva"])
    oracle.check(out.adapted["convnext"], expected["adapted_convnext"])
    loss.backward()
    check_gradients(oracle, world, expected["grad"])


@pytest.mark.parametrize("reading", ["paper", "attention_as_is", "per_head", "released"])
def test_token_weight_readings(oracle, released, paper, reading):
    world = make_world(oracle, released)
    hidden = world.teacher(world.images)
    attention = class_attention(world.teacher.model.vision_model.encoder.layers[0], hidden[0])
    weights = token_weights(attention, {"attention_as_is": "as_is"}.get(reading, reading))
    oracle.check(weights, paper["token_weight_readings"][reading])


PADDED = torch.ones(2, 5, 5, dtype=torch.bool)
PADDED[:, [0, 4]] = False
MOVED = {  # the fixture's name: MoLE's options, what `distil` is told
    "mole_around": ({"placement": "around"}, {}),
    "router_gate_scale": ({"router_gradient": "gate_scale"}, {}),
    "router_straight_through": ({"router_gradient": "straight_through"}, {}),
    "balance_per_layer": ({}, {"bal": "per_layer"}),
    "balance_switch": ({}, {"bal": "times_experts"}),
    "text_only_masked": ({}, {"has_image": torch.tensor([True, False])}),
    "no_image_at_all": ({}, {"has_image": torch.tensor([False, False])}),
    "padding_masked": ({}, {"valid": PADDED.flatten(1)}),
    "teacher_weight_uniform": ({}, {"teachers": "uniform"}),
    "token_weight_uniform": ({}, {"tokens": "none"}),
    "token_released": ({}, {"tokens": "released"}),
    "teacher_released": ({}, {"teachers": "released"}),
}


def test_every_moved_switch_is_held(paper):
    assert MOVED.keys() == paper["one_switch_moved"].keys()


@pytest.mark.parametrize("form", ["mask", "sorted"])
@pytest.mark.parametrize("name", MOVED)
def test_one_switch_moved(oracle, released, paper, name, form):
    mole, told = MOVED[name]
    world, expected = (
        make_world(oracle, released, form=form, **mole),
        paper["one_switch_moved"][name],
    )
    out = distil(world, **told)
    loss = KD_WEIGHT * out.kd + BALANCE_WEIGHT * out.balance
    oracle.close(out.kd.detach(), expected["kd"])
    oracle.close(out.balance.detach(), expected["balance"])
    oracle.close(loss.detach(), expected["kd_and_balance"])
    if "teacher_weight" in expected:
        oracle.close(out.teacher_weight.detach(), expected["teacher_weight"])
    loss.backward()
    check_gradients(oracle, world, expected["grad"])


# --- sizes ----------------------------------------------------------------------------------


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts(released, paper):
    counts = released["counts"]
    with torch.device("meta"):
        vit_l = CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24
        )
        adapters = {
            "eva_adapter": ChannelThenToken(1024, 4096, 1024, 576),
            "convnext_adapter": ChannelThenToken(3072, 1024, 1024, 576),
            "sam_adapter": ChannelThenToken(256, 4096, 1024, 576),
        }
        student = Vit(vit_l)
        plain, ours = count(student), {}
        for layers, placement in (("all", "inside"), ("used", "inside"), ("all", "around")):
            student = Vit(vit_l)
            inject_mole(student, layers, placement=placement)
            ours[layers, placement] = count(student) - plain
    assert {name: count(adapter) for name, adapter in adapters.items()} == {
        name: counts[name] for name in adapters
    }
    assert ours["all", "inside"] == counts["mole_total_24"] == 24_040_008
    assert ours["used", "inside"] == counts["mole_used_23"]
    assert ours["all", "around"] == paper["counts"]["around_24"]
    assert {p.device.type for p in student.parameters()} == {"meta"}


class Vit(nn.Module):
    def __init__(self, config):
        super().__init__()
        whole = CLIPVisionModel(config)
        self.model = nn.ModuleDict({"vision_model": tower_of(whole)})

    def blocks(self):
        yield from enumerate(self.model.vision_model.encoder.layers[:-1])
