"""Checks of models that are built on small parts.

Shapes: B batch, N tokens that the language model reads, D language width.
"""

from typing import Any

import torch
from torch import Tensor

from tove.config.validation import accepted_arguments, check_model
from tove.engine.stages.models import check_method as check_settled
from tove.errors import CheckpointError
from tove.evaluation.profile.model import measure_cost
from tove.registry import MODELS
from tove.testing._checks import METHOD_CHECKS
from tove.testing._small import IMAGE_SIZE, build_small, small_batch
from tove.testing._subject import MethodSubject
from tove_plugins.testing import SkipCheck, fail

__all__: list[str] = []

TOLERANCE = 1e-4  # of tokens of order one, summed in another order


def _read(model: Any, device: str) -> Tensor:  # noqa: ANN401 - a method's model
    """Return what the language model reads of the small batch, [B, N, D], in eval."""
    with torch.no_grad():
        tokens: Tensor = model.eval()(small_batch(device)["images"])
    return tokens


def _loss(model: Any, device: str) -> Tensor:  # noqa: ANN401 - a method's model
    losses = model(**small_batch(device), mode="loss")
    total: Tensor = sum(loss for name, loss in losses.items() if "loss" in name)
    return total


@METHOD_CHECKS.register("built")
def check_builds(subject: MethodSubject) -> None:
    """What cannot be built, trained and asked ends a run before or after its hours.

    Each model is built on two toy experts and the shipped tiny encoder and language model. Its
    settings are held against its arguments as a config's are; it must be settled, give finite
    losses by names with "loss" in them, tokens [B, N, D] of the language model's width, and a
    prediction for every sample.

    Mend: Read the message; `self.settle()` ends `__init__`, and what has no default goes into
    `MethodSpec.tiny`.
    """
    for kind in subject.models():
        settings = subject.settings(kind)
        check_model(MODELS.get(kind), settings, "model")
        model = build_small(settings).to(subject.device)
        check_settled(model)
        batch = small_batch(subject.device)
        losses = model(**batch, mode="loss")
        if not any("loss" in name for name in losses):
            fail(f"{kind} gives {sorted(losses)}; mmengine sums what has 'loss' in its name.")
        broken = [name for name, loss in losses.items() if not torch.isfinite(loss).all()]
        if broken:
            fail(f"{kind} gives {', '.join(broken)} that are not finite.")
        tokens = _read(model, subject.device)
        if tokens.ndim != 3 or (len(tokens), tokens.shape[2]) != (4, model.language.width):
            fail(
                f"{kind} gives tokens {list(tokens.shape)} for 4 images, but the language model "
                f"reads [4, N, {model.language.width}]."
            )
        with torch.no_grad():
            answered = model(**batch, mode="predict")
        if not all("prediction" in sample for sample in answered):
            fail(f"{kind} leaves samples without a 'prediction'.")


@METHOD_CHECKS.register("built")
def check_trains_its_own_alone(subject: MethodSubject) -> None:
    """A frozen network that moves is no longer the one that checkpoints name.

    One step of gradient descent is taken; some parameter of the method must change, and none of
    the encoder's that the model freezes, and none of an expert's.

    Mend: Leave `requires_grad` of the parts as the base sets it, and put what the method trains
    into modules of its own before `self.settle()`.
    """
    for kind in subject.models():
        model = subject.build(kind).train()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trained = [p for p in model.parameters() if p.requires_grad]
        if not trained:
            fail(f"{kind} trains nothing.")
        _loss(model, subject.device).backward()
        torch.optim.SGD(trained, lr=1.0).step()
        after = dict(model.named_parameters())
        moved = {name for name, old in before.items() if not torch.equal(old, after[name])}
        if not moved:
            fail(f"A step of {kind} changes no parameter: its loss does not depend on them.")
        experts = sorted(name for name in moved if name.startswith("hub.experts."))
        if experts:
            fail(f"A step of {kind} changes {', '.join(experts[:3])}: experts are frozen.")


@METHOD_CHECKS.register("built")
def check_unused_told(subject: MethodSubject) -> None:
    """Several processes wait for each other's gradients; one that never comes is an error there.

    A trained parameter that a training step leaves without a gradient is allowed only where the
    model's `leaves_unused` says so.

    Mend: Use every trained parameter in every step, freeze it, or return True.
    """
    for kind in subject.models():
        model = subject.build(kind).train()
        _loss(model, subject.device).backward()
        unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        if unused and not model.leaves_unused:
            fail(f"A step of {kind} leaves {', '.join(unused[:3])} without a gradient.")


@METHOD_CHECKS.register("built")
def check_checkpoint_holds_it(subject: MethodSubject) -> None:
    """What a stage trained is read back by the next one, by evaluation and by whoever is given it.

    A model is trained for a step; its state, loaded into another one of another seed, must make
    that give the same tokens.

    Mend: Keep what is learned in parameters or registered buffers, made in `__init__` before
    `self.settle()`.
    """
    for kind in subject.models():
        model = subject.build(kind).train()
        _loss(model, subject.device).backward()
        torch.optim.SGD([p for p in model.parameters() if p.grad is not None], lr=0.1).step()
        other = subject.build(kind, seed=1)
        other.load_trainable(model.state_dict())
        if not torch.equal(_read(model, subject.device), _read(other, subject.device)):
            fail(f"{kind} reads otherwise after its checkpoint is loaded into a new model.")


@METHOD_CHECKS.register("built")
def check_repeats(subject: MethodSubject) -> None:
    """A seed names a run: its initial weights and what a trained model says are the same again.

    Two models of one seed must have the same parameters, and one model in eval must give the same
    tokens twice.

    Mend: Draw initial weights from torch's generator alone, and nothing at random in eval.
    """
    for kind in subject.models():
        one, other = subject.build(kind), subject.build(kind)
        state = other.state_dict()
        differ = [n for n, t in one.state_dict().items() if not torch.equal(t, state[n])]
        if differ:
            fail(f"Two builds of {kind} of one seed differ in {', '.join(differ[:3])}.")
        if not torch.equal(_read(one, subject.device), _read(one, subject.device)):
            fail(f"{kind} in eval gives other tokens the second time.")


@METHOD_CHECKS.register("built")
def check_images_apart(subject: MethodSubject) -> None:
    """An answer about an image must not depend on which others share its batch.

    In eval, the tokens of each image alone must be those that it has in a batch.

    Mend: Take no statistics over the batch in eval.
    """
    for kind in subject.models():
        model = subject.build(kind).eval()
        images = small_batch(subject.device)["images"]
        with torch.no_grad():
            together, alone = model(images), torch.cat([model(image[None]) for image in images])
        worst = (together - alone).abs().max().item()
        if not worst <= TOLERANCE:
            fail(f"{kind} gives an image alone tokens that differ by {worst:.2g}.")


@METHOD_CHECKS.register("built")
def check_experts_told(subject: MethodSubject) -> None:
    """Licences, provenance and rows are of the experts that the model says it runs.

    `experts_of` its settings, which plans a run before anything is built, must name the slots that
    the built model tells the provenance of; with a slot in `detached` both must leave it out.

    Mend: Override `experts_of` where the model runs others than all of `experts`.
    """
    for kind in subject.models():
        known = accepted_arguments(MODELS.get(kind))
        experts = list(subject.settings(kind).get("experts", {}))
        takes_detached = experts and (known is None or "detached" in known)
        cases: list[dict[str, Any]] = [{}]
        if takes_detached:
            cases.append({"detached": tuple(experts[:1])})
        for over in cases:
            settings = subject.settings(kind, **over)
            planned = set(MODELS.get(kind).experts_of(settings))
            ran = set(subject.build(kind, **over).provenance())
            if planned != ran:
                fail(f"{kind} plans {sorted(planned)} and runs {sorted(ran)}, with {over}.")


@METHOD_CHECKS.register("built")
def check_detaches(subject: MethodSubject) -> None:
    """Experts are taken from a trained model one by one, and what is left runs without them.

    Of a model that says `detachable`, every number of experts is detached, all of them too; a model
    built with the rest alone must load its checkpoint and give the same tokens.

    Mend: Keep what belongs to a slot in module dicts keyed by slot, name these in `slot_parts`,
    and let `fuse_tokens` do without the slots that are not in `tokens`.
    """
    kinds = [kind for kind in subject.models() if MODELS.get(kind).detachable]
    if not kinds:
        raise SkipCheck("No model of the method says that it is detachable.")
    for kind in kinds:
        cls = MODELS.get(kind)
        settings = subject.settings(kind)
        full = build_small(settings).to(subject.device)
        slots = list(full.provenance())
        for slot in list(slots):
            slots.remove(slot)
            full.hub.detach(slot)
            slim = build_small(cls.with_slots(settings, slots), seed=1).to(subject.device)
            try:
                slim.load_trainable(full.state_dict())
            except CheckpointError as error:
                fail(f"{kind} built with {slots or 'no expert'} cannot load: {error}")
            worst = (_read(full, subject.device) - _read(slim, subject.device)).abs().max().item()
            if not worst <= TOLERANCE:
                fail(f"{kind} built with {slots or 'no expert'} differs by {worst:.2g}.")


@METHOD_CHECKS.register("built")
def check_cost_told(subject: MethodSubject) -> None:
    """A row says what an image costs, by part; an expert that is not told looks free.

    The cost of one image is measured as for a row: each expert that runs must be a part of it.

    Mend: Where `cost_parts` is overridden, name each expert's part `experts.SLOT`.
    """
    for kind in subject.models():
        model = subject.build(kind).eval()
        told = measure_cost(model, IMAGE_SIZE, torch.device(subject.device))["cost"]
        missing = sorted(set(model.running()) - set(told["experts"]))
        if missing:
            fail(f"The cost of {kind} does not tell of {', '.join(missing)}.")


@METHOD_CHECKS.register("built")
def check_mixed_precision(subject: MethodSubject) -> None:
    """With --amp a run computes in bfloat16, where a forgotten cast is an error hours in.

    A training step and an evaluation run under autocast; losses and tokens must be finite.

    Mend: Cast parameters to their input's dtype where they meet it outside a linear layer.
    """
    for kind in subject.models():
        model = subject.build(kind).train()
        with torch.autocast(torch.device(subject.device).type, torch.bfloat16):
            loss = _loss(model, subject.device)
            tokens = _read(model, subject.device)
        loss.backward()
        if not (torch.isfinite(loss) and torch.isfinite(tokens).all()):
            fail(f"{kind} in bfloat16 gives numbers that are not finite.")
