"""The Fisher metric of a merge, and the class token that it may keep."""

import pytest
import torch
from torch import nn

from tove.errors import ConfigError
from tove.methods.batch import Fused
from tove.methods.tove.fisher import fisher_distance, fisher_metric
from tove.methods.tove.merging import Merge

RIDGE = 0.2


class Listener(nn.Module):
    """Minds the first two of four directions: L = mean over samples of u_b . t_b, by its target."""

    width = 4

    def __init__(self) -> None:
        super().__init__()
        self.minded = {"first": [1.0, 0.0, 0.0, 0.0], "second": [0.0, 3.0, 0.0, 0.0]}
        self.minded |= {"the third one": [0.0, 0.0, 0.1, 0.0], "nothing": [0.0] * 4}
        self.own = nn.Parameter(torch.zeros(1))

    def loss(self, memory_BND, samples):
        if not len(memory_BND):
            return 0 * self.own.sum()
        u_BD = torch.tensor([self.minded[sample["target"]] for sample in samples])
        return (memory_BND * u_BD[:, None]).sum((1, 2)).mean()


class Teacher(nn.Module):
    """Gives the images themselves as t_fuse [V, 2, 4], and zeros as CLIP's part."""

    def __init__(self) -> None:
        super().__init__()
        self.language = Listener()

    def fuse(self, images, image_ids, views):
        return Fused(images, torch.zeros_like(images))

    def images_of(self, tokens, samples):
        return tokens


def _batch(*targets):
    images = torch.randn(len(targets), 2, 4, generator=torch.Generator().manual_seed(len(targets)))
    samples = [{"image_id": str(i), "target": target} for i, target in enumerate(targets)]
    return {"images": images, "data_samples": samples}


TEXTS = {"images": torch.zeros(0, 2, 4), "data_samples": [{"image_id": "0", "target": "first"}]}


def test_each_word_counts_and_the_rest_keeps_a_little_weight():
    batches = [_batch("first", "second", "the third one"), _batch("first", "nothing")]
    metric_DD = fisher_metric(Teacher(), batches)
    # Two samples of gradient 1, one of 3, and three words of 0.1.
    form = torch.diag(torch.tensor([2.0, 9.0, 0.03, 0.0]) / 11.03 + RIDGE / 4)
    torch.testing.assert_close(metric_DD / metric_DD.trace(), form / form.trace())


def test_the_distance_of_plain_clip_is_one():
    batches = [_batch("first", "second"), _batch("second", "second")]
    metric_DD = fisher_metric(Teacher(), batches)
    images = torch.cat([batch["images"] for batch in batches])
    found = fisher_distance(metric_DD, torch.zeros_like(images), images)
    torch.testing.assert_close(found, torch.ones(()))


def test_the_views_of_one_sample_count_together():
    batch = _batch("first", "first", "second")
    samples = [
        {"conversations": [turn("human", "what is it like?"), turn("gpt", text)], "views": views}
        for text, views in (("one", [{"num_views": 2}]), ("as many words", [{"num_views": 1}]))
    ]
    content_V4, owner_V = torch.zeros(3, 4), torch.tensor([0, 0, 1])
    for sample, target in zip(samples, ("first", "second"), strict=True):
        sample.update(target=target, image_id=target)

    class Many(Teacher):
        def images_of(self, tokens, samples):
            first, last = tokens[:2].sum(0), tokens[2]
            return torch.stack([first, last])

    given = {**batch, "data_samples": samples, "content": content_V4, "owner": owner_V}
    metric_DD = fisher_metric(Many(), [given])
    # Two views of one word, and three words of nine times the square.
    form = torch.diag(torch.tensor([2.0, 27.0, 0.0, 0.0]) / 29 + RIDGE / 4)
    torch.testing.assert_close(metric_DD / metric_DD.trace(), form / form.trace())


def turn(speaker, text):
    return {"from": speaker, "value": text}


def test_views_of_texts_alone_change_nothing():
    metric_DD = fisher_metric(Teacher(), [_batch("first", "second"), TEXTS])
    torch.testing.assert_close(metric_DD, fisher_metric(Teacher(), [_batch("first", "second")]))


def test_a_language_model_that_minds_nothing_leaves_a_plain_distance():
    teacher = Teacher()
    teacher.language.minded = dict.fromkeys(teacher.language.minded, [0.0] * 4)
    metric_DD = fisher_metric(teacher, [_batch("first", "second")])
    torch.testing.assert_close(metric_DD, metric_DD[0, 0] * torch.eye(4))
    assert metric_DD[0, 0] > 0


def test_the_gradient_is_taken_between_clip_s_tokens_and_t_fuse(make_model, batch):
    merge = Merge(make_model(), loss="fisher")
    teacher, width = merge.teacher, merge.teacher.language.width
    fused = teacher.fuse(batch["images"])
    share_V = torch.rand(3, generator=torch.Generator().manual_seed(7))
    form_DD = torch.zeros(width, width)
    for row, share in enumerate(share_V):  # one by one
        t_ND = share * fused.t_fuse[row] + (1 - share) * fused.v[row]
        t_1ND = t_ND.detach()[None].requires_grad_(True)
        loss = teacher.language.loss(t_1ND, [batch["data_samples"][row]])
        grad_ND = torch.autograd.grad(loss, t_1ND)[0][0]
        form_DD += grad_ND.T @ grad_ND
    form_DD = form_DD / form_DD.trace() + RIDGE / width * torch.eye(width)
    merge.fit_metric([batch], seed=7)
    found_DD = merge.metric_DD
    torch.testing.assert_close(found_DD / found_DD.trace(), form_DD / form_DD.trace())
    losses = merge.train()(**batch, mode="loss")
    torch.testing.assert_close(losses["loss_merge"], torch.ones(()))  # the student is CLIP still
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_resumed_merge_has_the_metric_that_it_began_with(make_model, batch):
    merge = Merge(make_model(), loss="fisher")
    merge.fit_metric([batch], seed=0)
    again = Merge(make_model(), loss="fisher")
    again.load_state_dict(merge.state_dict())
    assert torch.equal(again.metric_DD, merge.metric_DD)
    assert not torch.equal(merge.metric_DD, torch.eye(len(merge.metric_DD)))


def test_the_language_model_s_own_mean_is_put_back(make_model, batch):
    merge = Merge(make_model(), loss="fisher")
    language, asked = merge.teacher.language, []
    language.loss_mean, own = "tokens", language.loss
    language.loss = lambda *given: asked.append(language.loss_mean) or own(*given)
    merge.fit_metric([batch], seed=0)
    assert asked == ["samples"]
    assert language.loss_mean == "tokens"


def test_what_is_kept_of_the_class_token(make_model, batch):
    def train(keep):
        merge = Merge(make_model(), keep=keep).train()
        losses = merge(**batch, mode="loss")
        if keep:
            assert losses["loss_keep"].item() == pytest.approx(0, abs=1e-6)
        optimizer = torch.optim.AdamW([p for p in merge.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(12):
            optimizer.zero_grad()
            losses = merge(**batch, mode="loss")
            sum(losses.values()).backward()
            optimizer.step()
        images = batch["images"] / 255
        own_BC, student_BC = (
            network.encode(images)[:, 0] for network in (merge.teacher.encoder, merge.student)
        )
        return (1 - torch.cosine_similarity(own_BC, student_BC)).mean().item(), losses

    let_go, losses = train(0.0)
    assert set(losses) == {"loss_merge"}
    kept, losses = train(5.0)
    assert kept < 0.5 * let_go
    assert losses["loss_keep"].item() == pytest.approx(5 * kept, rel=0.5)


def test_clip_s_own_class_tokens_cost_once_where_its_tokens_do(make_model, batch, monkeypatch):
    def losses_of(**options):
        torch.manual_seed(0)
        merge = Merge(make_model(**options), keep=1.0).train()
        for parameter in merge.student.parameters():
            parameter.data.mul_(1.1)
        runs = []
        clip, own = merge.teacher.encoder, type(merge.teacher.encoder).encode
        monkeypatch.setattr(
            clip, "encode", lambda images: runs.append(len(images)) or own(clip, images)
        )
        rows = [[0, 1], [1, 2], [2, 0]]
        samples = batch["data_samples"]
        found = [
            merge(batch["images"][r], [samples[i] for i in r], mode="loss")["loss_keep"]
            for r in rows
        ]
        return found, runs

    live, each = losses_of()
    cached, once = losses_of(token_cache={"max_gb": 0.1})
    assert each == [2, 2, 2]
    assert once == [2, 1]
    torch.testing.assert_close(cached, live)
    assert all(loss > 0.001 for loss in live)


def test_an_encoder_without_a_class_token_is_told(make_model):
    model = make_model()
    model.encoder.has_class_token = False
    with pytest.raises(ConfigError, match=r"model\.keep is 1\.0, but TransformersCLIP has no"):
        Merge(model, keep=1.0)
