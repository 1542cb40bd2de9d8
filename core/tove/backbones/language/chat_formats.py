r"""How the turns of a conversation become one text, and which parts of it are learned.

    plain     <image>ANSWER\n                                          LLaVA's first stage
    v1        SYSTEM USER: QUESTION ASSISTANT: ANSWER</s>USER: ...     Vicuna, LLaVA's second stage
    template  what the tokenizer's chat template makes of it

Learned are the answers and what ends each of them ("\n", "</s>", the template's token). Both of
LLaVA's own are those of its release (arXiv 2310.03744).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tove.errors import ConfigError

__all__ = ["FORMATS", "IMAGE", "VICUNA", "ChatFormat", "Rendered", "Span", "Turn", "build_format"]

IMAGE = "<image>"
Turn = dict[str, str]

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Span(NamedTuple):
    """Characters that are learned: the answer from begin to stop, what ends it from stop to end."""

    begin: int
    stop: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text.

    Attributes:
        text: with `<image>` where an image stands.
        spans: the learned parts of it, in order.
    """

    text: str
    spans: tuple[Span, ...]


class ChatFormat(Protocol):
    """How conversations are written.

    Attributes:
        own_start: the tokenizer's own start token goes before the text, which has none.
    """

    own_start: bool

    def render(self, turns: Sequence[Turn], num_images: int) -> Rendered:
        """Write a whole conversation."""

    def prompt(self, turns: Sequence[Turn], num_images: int) -> str:
        """Write a conversation up to where the next answer begins."""


def build_format(name: str, tokenizer: Any, end: str) -> ChatFormat:  # noqa: ANN401
    """Build a format by name.

    Args:
        name: "plain", "v1" or "template".
        tokenizer: of transformers.
        end: the token that ends a text.

    Raises:
        ConfigError: there is no such format, or the tokenizer has no chat template.
    """
    if name not in FORMATS:
        raise ConfigError(
            f"language.chat is {name!r}, but it must be one of {', '.join(map(repr, FORMATS))}."
        )
    return FORMATS[name](tokenizer, end)


class PlainFormat:
    """Images and their caption, without a question: the alignment of the projector."""

    own_start = True

    def __init__(self, tokenizer: Any, end: str) -> None:  # noqa: ANN401
        pass

    def render(self, turns: Sequence[Turn], num_images: int) -> Rendered:
        """Write the images and the answer; the question is left out.

        Raises:
            ConfigError: it is not one question with one answer, or has no image.
        """
        if [turn["from"] for turn in turns] != ["human", "gpt"]:
            raise ConfigError(
                "language.chat='plain' takes conversations of one question and one answer (a "
                f"caption), but one has the turns {[turn['from'] for turn in turns]}; use 'v1' or "
                "'template' for it."
            )
        prompt = self.prompt(turns, num_images)
        text = prompt + turns[1]["value"] + "\n"
        return Rendered(text, (Span(len(prompt), len(text) - 1, len(text)),))

    def prompt(self, turns: Sequence[Turn], num_images: int) -> str:
        """Write the images alone."""
        if not num_images:
            raise ConfigError(
                "language.chat='plain' takes conversations about an image, but one has none; use "
                "'v1' or 'template' for it."
            )
        return IMAGE * num_images


class V1Format:
    """Vicuna's: `USER: ` and `ASSISTANT: ` after a system text, `</s>` after each answer."""

    own_start = True

    def __init__(self, tokenizer: Any, end: str) -> None:  # noqa: ANN401
        self._end = end

    def render(self, turns: Sequence[Turn], num_images: int) -> Rendered:
        """Write all turns.

        Raises:
            ConfigError: questions and answers do not take turns.
        """
        text, spans = f"{VICUNA} ", []
        for turn in _alternating(turns):
            if turn["from"] == "human":
                text += f"USER: {_image_first(turn['value'], num_images)} "
                continue
            # The span begins with the space: Llama's tokenizer makes it part of the first token, or
            # one of its own, and LLaVA learns both.
            begin = len(text) + len("ASSISTANT:")
            text += f"ASSISTANT: {_image_first(turn['value'], num_images)}"
            spans.append(Span(begin, len(text), len(text) + len(self._end)))
            text += self._end
        return Rendered(text, tuple(spans))

    def prompt(self, turns: Sequence[Turn], num_images: int) -> str:
        """Write all turns and `ASSISTANT:`."""
        return self.render(turns, num_images).text + "ASSISTANT:"


class TemplateFormat:
    """The tokenizer's own chat template.

    What is learned is what the template marks with `{% generation %}`. One without that mark is
    written up to each answer and up to its end, and the answer lies in between.
    """

    own_start = False

    def __init__(self, tokenizer: Any, end: str) -> None:  # noqa: ANN401
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "language.chat is 'template', but the tokenizer of language.pretrained has no chat "
                "template; use 'v1', or put a chat_template.jinja into its folder."
            )
        self._tokenizer = tokenizer
        self._marked = bool(_GENERATION.search(tokenizer.get_chat_template()))

    def render(self, turns: Sequence[Turn], num_images: int) -> Rendered:
        """Write all turns.

        Raises:
            ConfigError: questions and answers do not take turns, or the template changes what it
                wrote once more turns follow, so that answers cannot be told apart.
        """
        turns = _alternating(turns)
        messages = _messages(turns)
        text = self._write(messages)
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        bounds = self._marks(messages, text) if self._marked else self._between(messages, text)
        if len(bounds) != len(answers):
            raise ConfigError(
                f"The chat template marks {len(bounds)} answers in a conversation of "
                f"{len(answers)}; give the tokenizer a template that marks each of them."
            )
        spans = []
        for i, (begin, end) in zip(answers, bounds, strict=True):
            answer = messages[i]["content"].strip()
            at = text.rfind(answer, begin, end)
            spans.append(Span(begin, at + len(answer) if at >= 0 else end, end))
        return Rendered(text, tuple(spans))

    def prompt(self, turns: Sequence[Turn], num_images: int) -> str:
        """Write all turns and what an answer begins with."""
        return self._write(_messages(_alternating(turns)), add_generation_prompt=True)

    def _write(self, messages: list[dict[str, str]], **options: bool) -> str:
        return self._tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def _marks(self, messages: list[dict[str, str]], text: str) -> list[tuple[int, int]]:
        """Return the characters that the template marks: runs of marked tokens."""
        made = self._tokenizer.apply_chat_template(
            messages,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
        )
        bounds: list[tuple[int, int]] = []
        previous = 0
        for (begin, end), marked in zip(
            made["offset_mapping"], made["assistant_masks"], strict=True
        ):
            if marked and previous:
                bounds[-1] = (bounds[-1][0], end)
            elif marked:
                bounds.append((begin, end))
            previous = marked
        return bounds

    def _between(self, messages: list[dict[str, str]], text: str) -> list[tuple[int, int]]:
        bounds = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._write(messages[:i], add_generation_prompt=True)
            after = self._write(messages[: i + 1]).rstrip()
            if not (text.startswith(after) and after.startswith(before)):
                raise ConfigError(
                    "The chat template of language.pretrained writes earlier turns differently "
                    "once more follow, so that the answers cannot be told apart; mark them in it "
                    "with {% generation %} and {% endgeneration %}."
                )
            bounds.append((len(before), len(after)))
        return bounds


FORMATS: dict[str, Any] = {"plain": PlainFormat, "v1": V1Format, "template": TemplateFormat}


def _alternating(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns from the first question on, as LLaVA takes them.

    Raises:
        ConfigError: questions and answers do not take turns.
    """
    kept = list(turns[1:] if turns and turns[0]["from"] == "gpt" else turns)
    roles = [turn["from"] for turn in kept]
    if not kept or roles != [("human", "gpt")[i % 2] for i in range(len(roles))]:
        raise ConfigError(
            f"A conversation has the turns {[turn['from'] for turn in turns]}, but 'human' and "
            "'gpt' must take turns; mend or leave out that record."
        )
    return kept


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    roles = {"human": "user", "gpt": "assistant"}
    return [{"role": roles[turn["from"]], "content": turn["value"]} for turn in turns]


def _image_first(text: str, num_images: int) -> str:
    """Put a turn's only image before its text, on a line of its own, as LLaVA does."""
    if not num_images or text.count(IMAGE) != 1:
        return text
    return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()
