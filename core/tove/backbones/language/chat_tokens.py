"""A conversation as token ids: images in their places, learned tokens marked, cut to a length.

    [BOS] text <image> text ...   ->   ids with IMAGE_ID for each image   ->   each spread to the
    number of its tokens

In LLaVA's own formats the texts between images are encoded one by one, as in its release; a
template's text is encoded in one piece, `<image>` being a token, as stock processors do.
What is learned is told by the characters that a token comes from.

Shapes: L tokens of a sample.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from transformers import AddedToken

from tove.backbones.language.chat_formats import IMAGE, ChatFormat, Span, Turn
from tove.backbones.language.text_loss import IGNORED
from tove.errors import ConfigError
from tove.protocols import Sample

__all__ = [
    "IMAGE_ID",
    "ChatTokenizer",
    "Row",
    "TokenKind",
    "answered",
    "lay_out",
    "next_tokens",
    "num_images_of",
    "spread_whole",
    "turns_of",
]

IMAGE_ID = -200  # as in LLaVA's release


class TokenKind:
    """What a token is to the loss."""

    GIVEN, ANSWER, END = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Row:
    """One sample.

    Attributes:
        ids: token ids; IMAGE_ID where an image (once spread: an image's token) stands.
        kinds: a `TokenKind` of each: what the loss counts is not GIVEN.
    """

    ids: list[int]
    kinds: list[int]

    def places(self) -> list[int]:
        """Return the places of the images' tokens."""
        return [i for i, token in enumerate(self.ids) if token == IMAGE_ID]


class ChatTokenizer:
    """Encodes conversations.

    Args:
        tokenizer: a fast one of transformers, which knows the characters of its tokens.
        chat: how conversations are written.

    Raises:
        ConfigError: the tokenizer is a slow one.
    """

    def __init__(self, tokenizer: Any, chat: ChatFormat) -> None:  # noqa: ANN401
        if not tokenizer.is_fast:
            raise ConfigError(
                f"The tokenizer of language.pretrained is a {type(tokenizer).__name__}, which does "
                "not tell the characters of its tokens; save its fast version (tokenizer.json)."
            )
        self.tokenizer, self.chat = tokenizer, chat
        first = tokenizer("a")["input_ids"][:1]
        starts = chat.own_start and first and first[0] == tokenizer.bos_token_id
        self._start = first if starts else []
        self._whole: Any = None
        if not chat.own_start:  # a template's text is encoded as stock processors do: in one piece
            self._whole = deepcopy(tokenizer)
            marker = AddedToken(IMAGE, special=True, normalized=False)
            self._whole.add_tokens([marker], special_tokens=True)

    def sample(self, turns: Sequence[Turn], num_images: int) -> Row:
        """Encode a whole conversation.

        Args:
            turns: of LLaVA's JSON.
            num_images: 0 leaves `<image>` in a text the word that it is.

        Raises:
            ConfigError: its turns do not fit the format, or it has not one `<image>` an image.
        """
        rendered = self.chat.render(turns, num_images)
        return self._encode(rendered.text, rendered.spans, num_images)

    def prompt(self, turns: Sequence[Turn], num_images: int) -> Row:
        """Encode a conversation up to its last answer, which the model is to give."""
        while turns and turns[-1]["from"] == "gpt":
            turns = turns[:-1]
        return self._encode(self.chat.prompt(turns, num_images), (), num_images)

    def end_ids(self) -> list[int]:
        """Return the tokens that may end an answer: the first that stands behind one."""
        asked = [{"from": "human", "value": IMAGE}, {"from": "gpt", "value": "a"}]
        row = self.sample(asked, 1)
        return [row.ids[row.kinds.index(TokenKind.END)]] if TokenKind.END in row.kinds else []

    def _encode(self, text: str, spans: Sequence[Span], num_images: int) -> Row:
        pieces = text.split(IMAGE) if num_images else [text]
        if len(pieces) != num_images + 1:
            raise ConfigError(
                f"A conversation of {num_images} images has {len(pieces) - 1} {IMAGE} in its text: "
                f"{text[:200]!r}; put one where each image belongs."
            )
        if num_images and self._whole is not None:
            return self._encode_whole(text, spans)
        ids, kinds, offset = list(self._start), [TokenKind.GIVEN] * len(self._start), 0
        for i, piece in enumerate(pieces):
            if i:
                ids.append(IMAGE_ID)
                kinds.append(TokenKind.GIVEN)
                offset += len(IMAGE)
            if piece:
                made = self.tokenizer(
                    piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False
                )
                ids += made["input_ids"]
                kinds += _kinds(made["offset_mapping"], offset, spans)
            offset += len(piece)
        return Row(ids, kinds)

    def _encode_whole(self, text: str, spans: Sequence[Span]) -> Row:
        made = self._whole(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        image = self._whole.convert_tokens_to_ids(IMAGE)
        ids = [IMAGE_ID if token == image else token for token in made["input_ids"]]
        return Row(ids, _kinds(made["offset_mapping"], 0, spans))


def lay_out(row: Row, image_lengths: Sequence[int], limit: int) -> tuple[Row, int]:
    """Spread each image to its tokens and cut what is too long, never inside an image.

    An image that does not fit whole is left out, with all that follows it.

    Args:
        row: as encoded.
        image_lengths: number of tokens of each image of the row, in order.
        limit: the most tokens.

    Returns:
        The spread row and the number of images that it has.
    """
    ids: list[int] = []
    kinds: list[int] = []
    used = 0
    for token, kind in zip(row.ids, row.kinds, strict=True):
        length = image_lengths[used] if token == IMAGE_ID else 1
        if len(ids) + length > limit:
            break
        ids += [token] * length
        kinds += [kind] * length
        used += token == IMAGE_ID
    return Row(ids, kinds), used


def spread_whole(row: Row, image_lengths: Sequence[int], limit: int) -> Row:
    """Spread the images of a row that must not be cut.

    Raises:
        ConfigError: it is longer than `limit`.
    """
    spread, _ = lay_out(row, image_lengths, 2**31)
    if len(spread.ids) > limit:
        raise ConfigError(
            f"A question with its images has {len(spread.ids)} tokens, but the language model has "
            f"room for {limit}; shorten it, or use a model with more positions."
        )
    return spread


def num_images_of(sample: Sample) -> int:
    """Return how many images a sample has; one with a `prompt` is about one."""
    return len(sample.get("image_paths", ())) if "conversations" in sample else 1


def turns_of(sample: Sample) -> list[Turn]:
    """Return a sample's conversation; a `prompt` asks about its image, a `target` answers."""
    if "conversations" in sample:
        turns: list[Turn] = sample["conversations"]
        return turns
    asked = [{"from": "human", "value": f"{IMAGE}\n{sample['prompt']}".strip()}]
    return answered(asked, sample["target"]) if sample.get("target") else asked


def answered(turns: Sequence[Turn], answer: str) -> list[Turn]:
    """Return a conversation with another last answer, or with one where it has none."""
    asked = turns[:-1] if turns[-1]["from"] == "gpt" else turns
    return [*asked, {"from": "gpt", "value": answer}]


def next_tokens(rows: Sequence[Row]) -> tuple[list[int], list[list[int]]]:
    """Return the places whose next token counts in any row, and that token of each row.

    Returns:
        K places, at least one, and for each row K ids, IGNORED where its next token does not count.
    """
    counted = {i for row in rows for i, kind in enumerate(row.kinds) if kind != TokenKind.GIVEN}
    places = sorted(i - 1 for i in counted if i) or [0]
    labels = []
    for row in rows:
        line = [IGNORED] * len(places)
        for k, place in enumerate(places):
            if place + 1 < len(row.ids) and row.kinds[place + 1] != TokenKind.GIVEN:
                line[k] = row.ids[place + 1]
        labels.append(line)
    return places, labels


def _kinds(offsets: Sequence[tuple[int, int]], start: int, spans: Sequence[Span]) -> list[int]:
    """Tell each token's kind by its characters; tokens and spans both run forward."""
    kinds = []
    at = 0
    for begin, end in offsets:
        begin, end = begin + start, end + start
        while at < len(spans) and begin >= spans[at].end:
            at += 1
        if at == len(spans) or end <= spans[at].begin:
            kinds.append(TokenKind.GIVEN)
        else:
            kinds.append(TokenKind.ANSWER if begin < spans[at].stop else TokenKind.END)
    return kinds
