"""Use a trained model: captions and answers for a user's own photos.

It sees an image as the run's data sets show it and is asked in their words, so that it answers as
it did in the run's own evaluation. `tove.engine.load_trained` loads it.

Shapes: B images, H x W pixels of any size, S side of the shared view.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor

from tove.config.data_sets import by_use
from tove.data.collate import tove_collate
from tove.data.conversations import conversation_item
from tove.data.image_io import image_of, shared_view
from tove.data.vsr import plain_statement
from tove.engine.conversation_view import conversation_view
from tove.errors import ConfigError
from tove.protocols import Row, Sample
from tove.registry import DATASETS

__all__ = ["Answer", "TrainedModel"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to a question.

    Attributes:
        text: the answer.
        scores: log-likelihood in nats of each answer that was to choose from; empty where the
            model was free to say anything. Of a list longer than the language model's
            `rank_shortlist` it has those that were scored.
    """

    text: str
    scores: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class _Asking:
    """How the run's data sets ask.

    Attributes:
        view: "crop" or "pad".
        prompt: with a field {statement} or {question}, or a caption's beginning; None where no
            data set asks so.
        candidates: the answers to a statement, false and true.
    """

    view: str
    prompt: str | None = None
    candidates: tuple[str, ...] = ()


class TrainedModel:
    """A model of a finished run, ready for images that the run has never seen.

    Whatever takes `images` takes one or several: a path, Pillow's image or a tensor [3, H, W]
    (uint8, or floating in [0, 1]), a sequence of such, or a tensor [B, 3, H, W]; they are cut and
    resized as the run's own.

    Args:
        model: loaded, in eval.
        cfg: the run's, checked.
        stage: that the model is of.
        experts: slots that run.
        row: see the attribute.
        batch_size: images at once.

    Attributes:
        experts: the slots of the experts that run.
        stage: the stage whose model this is.
        row: of `results.json`, what the run measured of this very model: its scores and its cost;
            None where it measured none with these experts.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a method's
        cfg: Config,
        stage: str,
        experts: Sequence[str],
        row: Row | None,
        batch_size: int,
    ) -> None:
        self.model, self.stage, self.row = model.eval(), stage, row
        self.experts, self.batch_size = tuple(experts), batch_size
        self._cfg, self._size = cfg, int(cfg.image_size)
        self._captions, self._statements, self._questions = (
            _asking(cfg, name) for name in (None, "statement", "question")
        )

    def __repr__(self) -> str:
        experts = f"with {', '.join(self.experts)}" if self.experts else "without experts"
        name = type(self.model).__name__
        return f"<{name} of stage '{self.stage}', {experts}, on {self.device}>"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def caption(self, images: Any, prompt: str | None = None) -> list[str]:  # noqa: ANN401
        """Describe images.

        Args:
            images: one or several.
            prompt: how the caption begins; None is as the run's captions did.

        Returns:
            One text for each image, the prompt not among it.
        """
        prompt = self._captions.prompt if prompt is None else prompt
        if prompt is None:
            raise ConfigError(
                "No data set of this run has captions, so it does not say how one begins; give "
                "a prompt."
            )
        entries = {"task": "caption", "prompt": prompt}
        return [s["prediction"] for s in self._answered(images, [entries], self._captions.view)]

    def ask(
        self,
        images: Any,  # noqa: ANN401
        questions: str | Sequence[str],
        answers: Sequence[str] | None = None,
    ) -> list[Answer]:
        """Ask about images: one question about all, one image for all, or as many of each.

        Args:
            images: one or several.
            questions: as users would say them; where the run was trained on questions, they are
                put in its words.
            answers: to choose from, by likelihood; None lets the model say anything.

        Returns:
            One answer for each image or question.
        """
        asks = self._questions.prompt or "{question}"
        plain = _asked(questions)
        prompts = [asks.replace("{question}", question) for question in plain]
        view = self._questions.view
        if answers is not None:
            return self._chosen(images, prompts, answers, view)
        entries = [{"task": "caption", "prompt": prompt} for prompt in prompts]
        return [Answer(s["prediction"]) for s in self._answered(images, entries, view)]

    def judge(self, images: Any, statements: str | Sequence[str]) -> list[Answer]:  # noqa: ANN401
        """Say of statements about images whether they are true, in the run's words for that.

        Args:
            images: one or several.
            statements: one for all, or one for each.

        Returns:
            One answer for each image or statement, "no" or "yes" by default.

        Raises:
            ConfigError: no data set of the run has statements.
        """
        asks = self._statements
        if asks.prompt is None:
            raise ConfigError(
                "No data set of this run has statements, so it was not trained to judge one; ask "
                "a question instead, with the answers to choose from."
            )
        plain = [plain_statement(statement) for statement in _asked(statements)]
        prompts = [asks.prompt.replace("{statement}", statement) for statement in plain]
        return self._chosen(images, prompts, asks.candidates, asks.view)

    def chat(
        self,
        images: Any,  # noqa: ANN401
        question: str,
        earlier: Sequence[Mapping[str, str]] = (),
    ) -> str:
        """Answer a question in a conversation about images, which are seen as the run's were.

        Args:
            images: one or several, which stand before the first question; an empty list is none.
            question: as users would say it.
            earlier: what was said before, turns of LLaVA's JSON.

        Raises:
            ConfigError: no data set of the run has conversations.
        """
        sources = _images_of(images)
        turns = [*map(dict, earlier), {"from": "human", "value": question}]
        turns[0]["value"] = "<image>\n" * len(sources) + turns[0]["value"]
        sample = {
            "task": "conversation",
            "image_id": "conversation",
            "image_paths": [f"image {number}" for number, _ in enumerate(sources)],
            "conversations": turns,
        }
        view = conversation_view(self._cfg)
        if view is None:
            raise ConfigError(
                "No data set of this run has conversations, so its model was not trained to talk; "
                "ask it by `ask` or `caption` instead."
            )
        views = [view(image_of(source)) for source in sources]
        batch = tove_collate([conversation_item(sample, views, view.size)])
        answer: str = self.model.test_step(batch)[0]["prediction"]
        return answer

    def _chosen(
        self,
        images: Any,  # noqa: ANN401
        prompts: Sequence[str],
        candidates: Sequence[str],
        view: str,
    ) -> list[Answer]:
        """Answer each prompt by the likeliest candidate."""
        candidates = list(_listed(candidates))
        if not candidates:
            raise ConfigError("The list of answers to choose from is empty; give some, or None.")
        entries = [
            {"task": "question", "prompt": prompt, "candidates": candidates} for prompt in prompts
        ]
        found = []
        for sample in self._answered(images, entries, view):
            scored = zip(candidates, sample["scores"], strict=True)
            scores = {text: score for text, score in scored if math.isfinite(score)}
            found.append(Answer(candidates[sample["prediction"]], scores))
        return found

    @torch.no_grad()
    def _answered(
        self,
        images: Any,  # noqa: ANN401
        entries: Sequence[Mapping[str, Any]],
        view: str,
    ) -> list[Sample]:
        """Let the model answer samples of these entries, a batch at a time."""
        sources = _images_of(images)
        sources, entries = _paired(sources, entries)
        samples = [
            {"image_id": str(source) if isinstance(source, str | Path) else f"image {i}", **entry}
            for i, (source, entry) in enumerate(zip(sources, entries, strict=True))
        ]
        answered: list[Sample] = []
        for start in range(0, len(samples), self.batch_size):
            part = slice(start, start + self.batch_size)
            views = [shared_view(image_of(s, self._size), self._size, view) for s in sources[part]]
            batch = {"images": torch.stack(views), "data_samples": samples[part]}
            answered += self.model.test_step(batch)
        return answered


def _asking(cfg: Config, about: str | None) -> _Asking:
    """Find how the run's data sets ask: about a "statement", a "question", or for captions (None).

    A data set asks by its argument `prompt`, the field in which says about what.
    """
    found = by_use(cfg)
    for _, dataset in found:
        defaults = signature(DATASETS.get(dataset["type"])).parameters
        settings = {
            key: dataset.get(key, defaults[key].default)
            for key in ("prompt", "candidates")
            if key in defaults
        }
        prompt = settings.get("prompt")
        fields = [name for name in ("statement", "question") if f"{{{name}}}" in (prompt or "")]
        if isinstance(prompt, str) and fields == ([about] if about else []):
            view = dataset.get("view", "crop")
            return _Asking(view, prompt, tuple(settings.get("candidates", ())))
    return _Asking(found[0][1].get("view", "crop") if found else "crop")


def _listed(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts


def _asked(texts: str | Sequence[str]) -> list[str]:
    asked = [" ".join(text.split()) for text in _listed(texts)]
    if not all(asked):
        raise ConfigError("A question or statement is empty; say what is asked.")
    return asked


def _images_of(images: Any) -> list[Any]:  # noqa: ANN401
    """Return the images of what a caller gave, one or several."""
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, Tensor) and images.dim() == 3:
        return [images]
    return list(images)


def _paired(sources: list[Any], entries: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Repeat the one image, or the one question, for as many as there are of the other."""
    if len(sources) == 1:
        return sources * len(entries), list(entries)
    if len(entries) == 1:
        return sources, list(entries) * len(sources)
    if len(sources) != len(entries):
        raise ConfigError(
            f"There are {len(sources)} images and {len(entries)} questions; give one image, one "
            "question, or as many of each."
        )
    return sources, list(entries)
