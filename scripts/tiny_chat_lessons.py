"""What the tiny world's chat model is taught, as token ids.

Questions of the data, captions, and where a thing is.
"""

from __future__ import annotations

import math
import random
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from tove.data.tiny_world.text import Question, Thing

IMAGE = -200  # the engine's, in an image's place
# Two scenes in three hold no pair to ask the depth of, and half of them nothing to count.
ASKED = (*["count", "colour", "place"] * 2, *["depth"] * 6, *["where"] * 3)
CAPTION_SHARE, WORDS_SHARE = 0.2, 0.1
TURNS, TRIES, PLACES = 3, 6, 6


class Text(NamedTuple):
    """Token ids, IMAGE in an image's place, and of each whether it is learned."""

    ids: list[int]
    learned: list[bool]


class Writer:
    """Writes lessons about scenes as token ids, as the engine's formats do."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from tove.data.tiny_world.tokenizer import CHAT_WORD

        self.vocabulary = tokenizer.get_vocab()
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.find = re.compile(CHAT_WORD).findall

    def words(self, text: str) -> list[int]:
        """Return the ids of a text's words."""
        return [self.vocabulary[word] for word in self.find(text.lower())]

    def conversation(self, turns: Sequence[tuple[str, str]], image: bool) -> Text:
        """Write questions with their answers in the chat template's form."""
        ids, learned = [self.start], [False]
        for number, (question, answer) in enumerate(turns):
            asked = self.words("USER:")
            asked += [IMAGE, *self.words("\n")] if image and number == 0 else []
            asked += self.words(f"{question} ASSISTANT:")
            said = [*self.words(answer), self.end]
            ids += asked + said
            learned += [False] * len(asked) + [True] * len(said)
        return Text(ids, learned)

    def caption(self, caption: str) -> Text:
        """Write a caption in the form of `plain`."""
        said = self.words(f"{caption}\n")
        return Text([self.start, IMAGE, *said], [False, False] + [True] * len(said))


def lesson(writer: Writer, things: list[Thing], rng: random.Random, short: bool) -> Text:
    """Draw a caption of a scene, questions about it, or questions that need none.

    Args:
        writer: writes it down.
        things: of the scene.
        rng: draws.
        short: of one question at most, and no caption: what looking up is learned from first.
    """
    from tove.data.tiny_world.dialogue import ask
    from tove.data.tiny_world.text import ordered_caption

    drawn = rng.random()
    if drawn < CAPTION_SHARE and not short:
        return writer.caption(ordered_caption(things))
    image = drawn < 1 - WORDS_SHARE
    turns: dict[str, str] = {}
    for _ in range(TRIES):
        kind = rng.choice(ASKED) if image else "words"
        question = where(things, rng) if kind == "where" else ask(things, kind, rng)
        if question:
            turns[question.text] = question.answer
        if len(turns) == (1 if short else TURNS):
            break
    if not turns:
        return writer.caption(ordered_caption(things))
    return writer.conversation(list(turns.items()), image)


def where(things: list[Thing], rng: random.Random) -> Question | None:
    """Ask for a thing's column, row and distance, in steps of which there are PLACES.

    Answers of two words tell little of how to find a thing; three numbers tell much.
    """
    from tove.data.tiny_world.dialogue import NUMBER_WORDS
    from tove.data.tiny_world.scene import FAR, NEAR
    from tove.data.tiny_world.text import Question, named

    if not (known := named(things)):
        return None
    thing = rng.choice(known)
    away = math.log(thing.depth / NEAR) / math.log(FAR / NEAR)
    steps = [min(max(int(v * PLACES), 0), PLACES - 1) for v in (thing.x, thing.y, away)]
    answer = " ".join(NUMBER_WORDS[step] for step in steps)
    return Question(f"where is the {thing.name}?", answer, "where")


class Batch(NamedTuple):
    """Texts of one length [B, T], of each token whether it is learned, the rows of an image [B]."""

    ids: Tensor
    learned: Tensor
    seen: Tensor


def pad(texts: Sequence[Text], tokens: int, padding: int) -> Batch:
    """Put texts side by side, each IMAGE spread to as many tokens as an image has."""
    import torch

    rows = []
    for ids, learned in texts:
        at = ids.index(IMAGE) if IMAGE in ids else 0
        more = tokens - 1 if IMAGE in ids else 0
        rows.append(([*ids[:at], *[IMAGE] * more, *ids[at:]], [False] * more + learned))
    width = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [padding] * (width - len(ids)) for ids, _ in rows])
    learned_BT = torch.tensor([marks + [False] * (width - len(marks)) for _, marks in rows])
    return Batch(ids_BT, learned_BT, (ids_BT == IMAGE).any(1))
