"""A decoder-only chat model that reads images inside a conversation (LLaVA).

    x = [E(w_1), .., E(w_i), f_1, .., f_n, E(w_i+1), ..]      f: an image's tokens, where <image> is
    L = - mean over answer tokens of log p(x_t | x_<t)

Images may have any number of tokens, conversations any number of images and turns. Training pads on
the right, and a causal model never looks there from a token: it needs no attention mask, which
spares the wait for the device that a mask costs. Generation pads on the left.

Shapes: B samples, I images of all samples, n_i tokens of image i, D language width, L tokens of the
longest sample, K places whose next token counts, V vocabulary, R rows (candidates), T new tokens.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from tove.backbones.language.adapters import attach_adapters, set_adapter_mode
from tove.backbones.language.chat_formats import Turn, build_format
from tove.backbones.language.chat_inputs import (
    ImageFeatures,
    embed_rows,
    flatten_images,
    keep_images,
)
from tove.backbones.language.chat_ranking import candidate_rows, log_likelihoods
from tove.backbones.language.chat_tokens import (
    ChatTokenizer,
    Row,
    answered,
    lay_out,
    next_tokens,
    num_images_of,
    spread_whole,
    turns_of,
)
from tove.backbones.language.loading import first_position, load_causal_lm, room_for_text
from tove.backbones.language.text_loss import text_loss
from tove.config.validation import Range
from tove.errors import ConfigError
from tove.modules.device import on_device
from tove.protocols import Sample
from tove.registry import LANGUAGE_MODELS

__all__ = ["ChatLanguageModel"]

_ROWS_PER_PASS = 32


@LANGUAGE_MODELS.register_module()
class ChatLanguageModel(nn.Module):
    """A causal language model of transformers that talks about images.

    Image features are a list of [n_i, D], in the order of the samples and of the images within
    each, or [I, N, D] where all have N tokens; a batch without images gives [0, N, D], so that the
    projector takes part in the backward pass of every process. A sample has `conversations` (turns
    of LLaVA's JSON) and `image_paths`, one for each image; one that has a `prompt` and a `target`
    instead is asked about its one image.

    Args:
        pretrained: a folder written by `save_pretrained`, "pkg:PACKAGE/PATH", or a hub id.
        chat: how conversations are written: "plain" and "v1" as LLaVA does, or the tokenizer's own
            "template".
        tuning: "full" trains all weights, "lora" matrices of low rank, "frozen" none.
        lora: arguments of peft's LoraConfig, such as dict(r=128, lora_alpha=256).
        loss_mean: over "tokens" of the batch, or over "samples", each a mean over its tokens.
        dtype: torch dtype of frozen weights by name, such as "bfloat16"; None is float32.
        max_tokens: of a training sample, image tokens included. Longer ones are cut, never inside
            an image: one that does not fit whole is left out with all that follows it.
        checkpointing: compute the layers' activations again in the backward pass: less memory for
            a third more time.
        newline: learn the token that stands after each row of an image's tiles, which LLaVA-NeXT
            has; it trains unless a stage's `trains` leaves it out.

    Attributes:
        newline_D: that token; None without it.
        end_ids: the model's own end tokens.
        stop_ids: those, and before them what stands behind an answer.

    Raises:
        ConfigError: unknown switch, no such model, or training weights of less than float32.
    """

    def __init__(
        self,
        pretrained: str,
        chat: Literal["plain", "v1", "template"] = "v1",
        tuning: Literal["full", "lora", "frozen"] = "frozen",
        lora: dict[str, Any] | None = None,
        loss_mean: Literal["tokens", "samples"] = "tokens",
        dtype: str | None = None,
        max_tokens: Annotated[int, Range(2)] = 2048,
        checkpointing: bool = False,
        newline: bool = False,
    ) -> None:
        super().__init__()
        _check_tuning(tuning, lora, dtype)
        self.pretrained, self.chat = pretrained, chat
        self.tuning, self.loss_mean = tuning, loss_mean
        self.lm, tokenizer = load_causal_lm(pretrained, "prefix", dtype)
        self.lm.requires_grad_(tuning == "full")
        if tuning == "lora":
            # Only the language model is in here, so no pattern can reach a vision tower.
            attach_adapters(self.lm, {"type": "lora", **(lora or {})})
        if checkpointing:
            old = self.lm.gradient_checkpointing_enable  # its name before transformers 5.24
            enable = getattr(self.lm, "activation_checkpointing_enable", old)
            enable({"use_reentrant": False})
        self.newline_D = _newline(self.width) if newline else None
        self.end_ids = _end_ids(self.lm.config, tokenizer)
        end = tokenizer.convert_ids_to_tokens(self.end_ids[0])
        self.text = ChatTokenizer(tokenizer, build_format(chat, tokenizer, end))
        # Any token does: padding is never looked at.
        self._pad = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_ids[0]
        )
        self.stop_ids = list(dict.fromkeys([*self.text.end_ids(), *self.end_ids]))
        self.max_tokens = min(max_tokens, room_for_text(self.lm, first_position(self.lm), 0))
        self._positions = room_for_text(self.lm, first_position(self.lm), 0)
        self._keeps_logits = "logits_to_keep" in inspect.signature(self.lm.forward).parameters
        self.train(self.training)

    @property
    def width(self) -> int:
        """Width D that image features must have."""
        return self.lm.get_input_embeddings().embedding_dim

    def train(self, mode: bool = True) -> "ChatLanguageModel":
        """Set the mode of what trains; a frozen model stays in eval (no dropout)."""
        super().train(mode)
        if self.tuning != "full":
            self.lm.eval()
            set_adapter_mode(self.lm, mode)
            for layer in self.lm.modules():
                if getattr(layer, "gradient_checkpointing", False):
                    layer.training = mode  # a layer in eval does not checkpoint
        return self

    def trainable_names(self) -> list[str]:
        """Return the names of the trained parameters; all others belong to `pretrained`."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def room(self, num_image_tokens: int) -> int:
        """Give how many text tokens there are positions for beside a sample's images."""
        return self._positions - num_image_tokens

    def num_tokens(self, sample: Sample) -> int:
        """Count the tokens of a sample's words, with the longest of its candidates."""
        turns, number = turns_of(sample), num_images_of(sample)
        if sample.get("candidates"):
            turns = answered(turns, max(sample["candidates"], key=len))
        return len(self._encoded(turns, number).ids) - number

    def check_images(self, image_length: int) -> None:
        """Refuse images that leave no room for words, before training.

        Args:
            image_length: the most tokens of a sample's images together.

        Raises:
            ConfigError: they fill `max_tokens`.
        """
        if image_length + 2 > self.max_tokens:
            raise ConfigError(
                f"The images of a sample have up to {image_length} tokens, but language.max_tokens "
                f"(or what the model has positions for) is {self.max_tokens}, and image tokens are "
                "never cut; raise it, or take a smaller image_size or fewer tiles."
            )

    def loss(self, image_features: ImageFeatures, samples: Sequence[Sample]) -> Tensor:
        """Cross-entropy of the answers and of what ends them.

        Args:
            image_features: see the class.
            samples: B samples.

        Returns:
            A scalar; see `text_loss`.
        """
        flat_ND, lengths = flatten_images(image_features)
        rows, kept = self._rows(samples, lengths, self.max_tokens)
        embeds_BLD, _ = self._embed(rows, flat_ND, lengths, kept)
        places, labels = next_tokens(rows)
        labels_BK = on_device(labels, embeds_BLD.device)
        return text_loss(self._logits(embeds_BLD, places), labels_BK, self.loss_mean)

    @torch.no_grad()
    def logits(self, image_features: ImageFeatures, samples: Sequence[Sample]) -> list[Tensor]:
        """Return the logits [L, V] of each sample's tokens, images spread, up to its last answer.

        Args:
            image_features: see the class.
            samples: B samples.
        """
        flat_ND, lengths = flatten_images(image_features)
        rows = self._prompts(samples, lengths, self._positions)
        embeds_BLD, _ = self._embed(rows, flat_ND, lengths, range(len(lengths)))
        logits_BLV = self._logits(embeds_BLD, range(embeds_BLD.shape[1]))
        return [line[: len(row.ids)] for line, row in zip(logits_BLV, rows, strict=True)]

    @torch.no_grad()
    def rank(
        self,
        image_features: ImageFeatures,
        samples: Sequence[Sample],
        length_normalised: bool = False,
    ) -> list[list[float]]:
        """Score candidates as the last answer: sum over their tokens of log p(c_t | all before).

        Args:
            image_features: see the class.
            samples: B samples with their `candidates`; where the last turn is an answer, they take
                its place.
            length_normalised: divide by the number of the candidate's tokens.

        Returns:
            One list of log-likelihoods per sample, in the order of its candidates.
        """
        flat_ND, lengths = flatten_images(image_features)
        parts = flat_ND.split(lengths)
        rows, owners = candidate_rows(self.text, samples)
        scores: list[list[float]] = [[] for _ in samples]
        for begin in range(0, len(rows), _ROWS_PER_PASS):
            passed = slice(begin, begin + _ROWS_PER_PASS)
            lines = self._score(rows[passed], parts, length_normalised)
            for owner, score in zip(owners[passed], lines, strict=True):
                scores[owner].append(score)
        return scores

    @torch.no_grad()
    def generate(
        self,
        image_features: ImageFeatures,
        samples: Sequence[Sample],
        num_beams: Annotated[int, Range(1)] = 1,
        min_new_tokens: Annotated[int, Range(0)] = 0,
        max_new_tokens: Annotated[int, Range(1)] = 128,
    ) -> list[str]:
        """Answer the last question of each sample; an answer that it already has is not looked at.

        Args:
            image_features: see the class.
            samples: B samples.
            num_beams: 1 is greedy search.
            min_new_tokens: no end token before that many.
            max_new_tokens: hard limit of the answer.

        Returns:
            B answers.

        Raises:
            ConfigError: a question leaves no position for an answer.
        """
        flat_ND, lengths = flatten_images(image_features)
        rows = self._prompts(samples, lengths, self._positions - 1)
        everyone = range(len(lengths))
        embeds_BLD, mask_BL = self._embed(rows, flat_ND, lengths, everyone, "left")
        room = min(max_new_tokens, self._positions - embeds_BLD.shape[1])
        config = GenerationConfig(
            do_sample=False,
            num_beams=num_beams,
            min_new_tokens=min(min_new_tokens, room),
            max_new_tokens=room,
            bos_token_id=self.text.tokenizer.bos_token_id,
            eos_token_id=self.stop_ids,
            pad_token_id=self._pad,
        )
        ids_BT = self.lm.generate(
            inputs_embeds=embeds_BLD.to(self.lm.dtype),
            attention_mask=mask_BL,
            generation_config=config,  # all there is: `load_causal_lm` takes the model's own away
        )
        texts = self.text.tokenizer.batch_decode(ids_BT.tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _rows(
        self, samples: Sequence[Sample], lengths: list[int], limit: int
    ) -> tuple[list[Row], list[int]]:
        """Encode and cut samples; give the numbers of the images that stay."""
        rows: list[Row] = []
        kept: list[int] = []
        first = 0
        for sample in samples:
            number = num_images_of(sample)
            row = self._encoded(turns_of(sample), number)
            row, used = lay_out(row, lengths[first : first + number], limit)
            rows.append(row)
            kept += range(first, first + used)
            first += number
        if first != len(lengths):
            raise ValueError(f"{len(lengths)} images were given for samples with {first}.")
        return rows, kept

    def _encoded(self, turns: Sequence[Turn], num_images: int) -> Row:
        """Encode a conversation; one that nobody answers has nothing to learn."""
        encode = self.text.sample if turns[-1]["from"] == "gpt" else self.text.prompt
        return encode(turns, num_images)

    def _prompts(self, samples: Sequence[Sample], lengths: list[int], limit: int) -> list[Row]:
        """Encode samples up to their last answer, none of them cut."""
        rows, first = [], 0
        for sample in samples:
            number = num_images_of(sample)
            row = self.text.prompt(turns_of(sample), number)
            rows.append(spread_whole(row, lengths[first : first + number], limit))
            first += number
        return rows

    def _embed(
        self,
        rows: Sequence[Row],
        flat_ND: Tensor,
        lengths: Sequence[int],
        kept: Sequence[int],
        side: Literal["right", "left"] = "right",
    ) -> tuple[Tensor, Tensor]:
        table = self.lm.get_input_embeddings()
        return embed_rows(table, self._pad, rows, keep_images(flat_ND, lengths, kept), side)

    def _logits(self, embeds_BLD: Tensor, places: Sequence[int]) -> Tensor:
        """Return logits_BKV at some places, for right-padded rows."""
        places_K = on_device(places, embeds_BLD.device)
        extra = dict(logits_to_keep=places_K) if self._keeps_logits else {}
        logits = self.lm(inputs_embeds=embeds_BLD, use_cache=False, **extra).logits
        return logits if self._keeps_logits else logits[:, places_K]

    def _score(
        self,
        part: Sequence[tuple[Row, slice]],
        image_parts: Sequence[Tensor],
        length_normalised: bool,
    ) -> list[float]:
        """Return the log-likelihood of the counted tokens of each row."""
        device = self.lm.get_input_embeddings().weight.device
        own_parts = [image for _, own in part for image in image_parts[own]]
        rows = [
            spread_whole(row, [len(image) for image in image_parts[own]], self._positions)
            for row, own in part
        ]
        flat_ND = torch.cat([torch.empty(0, self.width, device=device), *own_parts])
        embeds_BLD, _ = embed_rows(self.lm.get_input_embeddings(), self._pad, rows, flat_ND)
        places, labels = next_tokens(rows)
        logits_RKV = self._logits(embeds_BLD, places)
        return log_likelihoods(logits_RKV, on_device(labels, device), length_normalised)


def _newline(width: int) -> nn.Parameter:
    """Draw LLaVA-NeXT's newline token, without moving the generator that other parts draw from."""
    with torch.random.fork_rng(devices=[]):
        return nn.Parameter(torch.randn(width) / width**0.5)


def _end_ids(config: Any, tokenizer: Any) -> list[int]:  # noqa: ANN401
    """Return the end tokens of a model: its config knows better than a converted tokenizer."""
    found = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise ConfigError(
            "Neither the language model's config nor its tokenizer has an end token, so no answer "
            "could end; set eos_token_id in its config.json."
        )
    return list(found) if isinstance(found, list | tuple) else [found]


def _check_tuning(tuning: str, lora: Mapping[str, Any] | None, dtype: str | None) -> None:
    if lora and tuning != "lora":
        raise ConfigError(
            f"language.lora is given, but language.tuning is {tuning!r}; set it to 'lora'."
        )
    if tuning == "full" and dtype not in (None, "float32", "float64"):
        raise ConfigError(
            f"language.dtype is {dtype!r}, in which all weights would train, their small steps "
            "lost to rounding; leave dtype out and train with --amp, or set language.tuning='lora'."
        )
