"""What of conversations is distilled: readings of text, borders, tiles, geometry, SAM's layout."""

import pytest
import torch

from tove.data.views import AnyResView, CropView, PadView
from tove.errors import ConfigError
from tove.methods.batch import Views
from tove.methods.move_kd import class_attention, record_routing, routing_balance, token_errors
from tove.methods.move_kd.taking_part import taking_part
from tove_plugins import ImageSpec

SIDE = 32
WHOLE = [0, 0, SIDE, SIDE]
LEFT = [0, 0, SIDE // 2, SIDE]
MOLE = {"num_experts": 2, "rank": 4, "dropout": 0.0}


@pytest.fixture
def make_student(make_model):
    def make(experts=None, **switches):
        given = {} if experts is None else {"experts": experts}
        return make_model(kind="MoVEKD", mole=MOLE, switches=switches, **given).train()

    return make


@pytest.fixture
def images():
    return torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def views_of(samples, boxes):
    """Say of samples, each a list of its images' numbers of views, where the views come from."""
    told = [{"views": [{"num_views": number} for number in images]} for images in samples]
    counts = torch.tensor([sum(images) for images in samples])
    owner = torch.arange(len(samples)).repeat_interleave(counts)
    content = torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4)
    return Views.of(content, owner, told)


def alone(model, image):
    """Return L_kd and L_balance of one whole image."""
    losses = model.fuse(image[None]).losses
    return torch.stack([losses["loss_kd"], losses["loss_balance"]]).detach()


def together(model, images, views):
    losses = model.fuse(images, None, views).losses
    return torch.stack([losses["loss_kd"], losses["loss_balance"]])


def test_a_sample_of_text_takes_no_part_or_is_a_black_image(make_student, images):
    views = views_of([[1], [], [1], []], [WHOLE, WHOLE])
    masked = make_student()
    own = [alone(masked, image) for image in images[:2]]
    torch.testing.assert_close(together(masked, images[:2], views), sum(own) / 2)

    distilled = make_student(text_only="distilled")
    black = alone(distilled, torch.zeros_like(images[0]))
    fused = distilled.fuse(images[:2], None, views)
    assert len(fused.t_fuse) == 2  # the language model reads no black image
    torch.testing.assert_close(together(distilled, images[:2], views), (sum(own) + 2 * black) / 4)


def test_a_batch_of_text_alone_is_zero_with_gradients_or_is_black(make_student, images):
    views = views_of([[], []], [])
    masked = make_student(adapter="resample")
    losses = masked.fuse(images[:0], None, views).losses
    assert all(torch.isfinite(value) for value in losses.values())  # what is logged as well
    (losses["loss_kd"] + losses["loss_balance"]).backward()
    assert losses["loss_kd"] == losses["loss_balance"] == 0
    trained = [p for p in masked.parameters() if p.requires_grad]
    reached = [p for p in trained if p.grad is not None]
    assert not any(p.grad.any() for p in reached)
    assert {id(p) for p in masked.adapters.parameters()} <= {id(p) for p in reached}  # DDP waits

    distilled = make_student(text_only="distilled")
    black = alone(distilled, torch.zeros_like(images[0]))
    torch.testing.assert_close(together(distilled, images[:0], views), black)


def test_borders_leave_both_sums_and_the_balance(make_student, images):
    model, views = make_student(experts={}, padding="masked"), views_of([[1]], [LEFT])
    image_1CHW = images[:1]
    with torch.no_grad():
        found = together(model, image_1CHW, views)
        with record_routing(model.encoder) as routing:
            v_1NC = model.encoder(image_1CHW)
        *_, before, after = model.clip.hidden_states(image_1CHW)
        block = [block for _, block in model.clip.blocks()][-1]
        attention_N = class_attention(block, before)[0, :, 1:].mean(0)
        error_N = token_errors(v_1NC, after[:, 1:])[0]
    left = [row * 4 + column for row in range(4) for column in (0, 1)]  # of 4 x 4 patches
    weight = attention_N[left] / attention_N[left].sum()
    kd = error_N[left].mean() + (weight * error_N[left]).sum()
    positions = [0] + [1 + place for place in left]
    balance = routing_balance([p[:, positions] for p in routing])
    torch.testing.assert_close(found, torch.stack([0.5 * kd, 0.01 * balance]))
    released = together(make_student(experts={}), image_1CHW, views)
    assert not torch.allclose(released, found)


def test_the_loss_is_a_mean_over_images_whose_views_are_images_of_their_own(make_student, images):
    read = dict(any_resolution="views", adapter="resample", padding="masked")
    model = make_student(**read)
    own = [alone(model, image) for image in images]
    # A sample with one view; one with two images, the second in three views, one all border.
    views = views_of([[1], [1, 3]], [WHOLE, WHOLE, WHOLE, WHOLE, [0, SIDE, SIDE, SIDE]])
    five = torch.cat([images, images[:1] * 0])
    expected = (own[0] + own[1] + (own[2] + own[3]) / 2) / 3
    torch.testing.assert_close(together(model, five, views), expected)


def test_each_teacher_has_borders_of_its_own_mean_colour(make_student, images):
    views = views_of([[1], [1]], [LEFT, WHOLE])
    model = make_student(geometry="released")
    seen, run = {}, model.hub.run
    model.hub.run = lambda slot, x: seen.setdefault(slot, x) is None or run(slot, x)
    model.fuse(images[:2], ["a", "b"], views)
    for slot in model.hub.attached:  # of mean .5
        assert torch.equal(seen[slot][0, ..., : SIDE // 2], images[0, ..., : SIDE // 2])
        assert (seen[slot][0, ..., SIDE // 2 :] == 127 / 255).all()
        assert torch.equal(seen[slot][1], images[1])

    part = taking_part(model.switches, images[:2], ["a", "b"], views, (4, 4))
    of_255 = ImageSpec((8, 8), (123.675, 116.28, 103.53), (58.0, 57.0, 57.0), (0, 255))
    painted = part.seen_by(of_255)
    assert (painted.images_VCHW[0, :, 5, -1] * 255).round().tolist() == [123, 116, 103]
    assert painted.ids[0] != "a"  # a cache does not take one for the other
    shared = taking_part(make_student().switches, images[:2], ["a", "b"], views, (4, 4))
    assert torch.equal(shared.seen_by(of_255).images_VCHW, images[:2])


def test_views_that_the_switches_do_not_know_are_refused_by_a_sentence(make_student):
    paper = make_student()
    for kind in (CropView.kind, PadView.kind):
        paper.check_view(kind)
    with pytest.raises(ConfigError, match=r"'anyres'.*any_resolution='views'"):
        paper.check_view(AnyResView.kind)
    make_student(any_resolution="views", adapter="resample").check_view(AnyResView.kind)
    released = make_student(geometry="released")
    released.check_view(PadView.kind)
    with pytest.raises(ConfigError, match=r"central square.*geometry='shared'"):
        released.check_view(CropView.kind)


def test_the_map_in_the_slot_sam_is_scrambled_as_released(make_student, expert_types, images):
    class Sam(expert_types["coarse"]):
        width, side, name = 16, 4, "sam_like"

    model = make_student(experts={"sam": {"type": Sam}}, sam_layout="released")
    given = []
    model.adapters["sam"].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    model.fuse(images[:2])
    right_BNC = model.hub.run("sam", images[:2])
    memory = right_BNC[1].T.flatten().tolist()  # channels first: place (c, y, x)
    # Read as [8, 8, 4], channels last, and 2 x 2 cells folded into channels 4 c + 2 dy + dx.
    for y, x, c, dy, dx in ((0, 0, 0, 0, 1), (1, 2, 3, 1, 0), (3, 3, 2, 1, 1)):
        wrong = memory[((2 * y + dy) * 8 + 2 * x + dx) * 4 + c]
        assert given[0][1, 4 * y + x, 4 * c + 2 * dy + dx].item() == pytest.approx(wrong)
    with pytest.raises(ConfigError, match="3x3 of 6"):
        make_student(experts={"sam": {"type": expert_types["coarse"]}}, sam_layout="released")
