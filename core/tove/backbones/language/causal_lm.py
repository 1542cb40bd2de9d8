"""The language side: a frozen causal language model that reads the vision tokens.

    p(text | t_fuse) = prod_t p(w_t | w_<t, t_fuse)        loss, ranking and generation all use it

`t_fuse` (the memory) enters in one of two ways:
- cross_attention: as `encoder_hidden_states` of a decoder with cross-attention (GPT-2, BERT and
  RoBERTa classes); the cross-attention is trained along, unless told otherwise;
- prefix: as soft tokens before the text, through `inputs_embeds` (any causal model).
Trained: the adapters (see `adapters`) and the cross-attention. The rest is frozen and in eval.

Shapes: B samples, N vision tokens, D language width, L text tokens, V vocabulary, C candidates.
"""

import inspect
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from tove.backbones.language.adapters import attach_adapters, set_adapter_mode
from tove.backbones.language.loading import (
    CROSS_ATTENTION,
    cache_argument,
    cross_attention_readers,
    first_position,
    load_causal_lm,
    new_cache,
    room_for_text,
    unfreeze_cross_attention,
)
from tove.backbones.language.ranking import Ranker
from tove.backbones.language.text_loss import IGNORED, text_loss
from tove.backbones.language.tokenization import PromptTokenizer, pad_rows
from tove.config.validation import Range
from tove.errors import ConfigError
from tove.modules.device import on_device
from tove.protocols import Sample
from tove.registry import LANGUAGE_MODELS

__all__ = ["CausalLanguageModel"]


@LANGUAGE_MODELS.register_module()
class CausalLanguageModel(nn.Module):
    """A pretrained causal language model with trained adapters, reading vision tokens.

    Args:
        pretrained: a folder written by `save_pretrained`, "pkg:PACKAGE/PATH", or a hub id.
        fusion: "cross_attention" or "prefix".
        adapters: None, dict(type="bottleneck", width=...) or dict(type="lora", ...) with the
            arguments of peft's LoraConfig.
        train_cross_attention: train cross-attention in full, with its layer norms.
        label_smoothing: in [0, 1), of the caption and answer loss.
        loss_mean: over "tokens" of the batch, the usual; or over "samples", each a mean over its
            tokens, so that one-word answers are not drowned by the captions they are mixed with.
        dtype: torch dtype of the frozen weights by name, such as "bfloat16"; None is float32.
        max_text_tokens: of a training sample, prompt and target together; what exceeds it is cut,
            lest one long caption pads its whole batch. A prompt that fills it alone is left out of
            the loss. None is as many as the model has positions for.
        rank_shortlist: of a sample with more candidates than that, only that many are scored in
            full, those with the likeliest first tokens; see `rank`.

    Raises:
        ConfigError: unknown switch, no such model, or one that cannot do cross-attention.
    """

    def __init__(
        self,
        pretrained: str,
        fusion: Literal["cross_attention", "prefix"] = "cross_attention",
        adapters: dict[str, Any] | None = None,
        train_cross_attention: bool = True,
        label_smoothing: Annotated[float, Range(0, 1, below=True)] = 0.0,
        loss_mean: Literal["tokens", "samples"] = "tokens",
        dtype: str | None = None,
        max_text_tokens: Annotated[int, Range(2)] | None = None,
        rank_shortlist: Annotated[int, Range(1)] = 128,
    ) -> None:
        super().__init__()
        self.fusion = fusion
        self.label_smoothing, self.loss_mean = label_smoothing, loss_mean
        self.max_text_tokens, self.rank_shortlist = max_text_tokens, rank_shortlist
        self.lm, tokenizer = load_causal_lm(pretrained, fusion, dtype)
        self.text = PromptTokenizer(tokenizer)
        self.lm.requires_grad_(False)
        in_full = fusion == "cross_attention" and train_cross_attention
        if in_full and self.lm.dtype.itemsize < 4:
            raise ConfigError(
                f"language.dtype is {dtype!r}, in which the cross-attention would train as well, "
                "its small steps lost to rounding; leave dtype out and train with --amp, or set "
                "language.train_cross_attention=False."
            )
        self.adapters = attach_adapters(
            self.lm, adapters, rf".*({'|'.join(CROSS_ATTENTION)}).*" if in_full else None
        )
        if in_full:
            unfreeze_cross_attention(self.lm)
        self._offset = first_position(self.lm)
        arguments = inspect.signature(self.lm.forward).parameters
        self._cache_argument = cache_argument(self.lm) or ""
        self._takes_positions = "position_ids" in arguments
        self._keeps_logits = "logits_to_keep" in arguments
        self.train(self.training)

    @property
    def width(self) -> int:
        """Width D that the memory must have."""
        if self.fusion == "cross_attention":
            return self.lm.config.hidden_size
        return self.lm.get_input_embeddings().embedding_dim

    def train(self, mode: bool = True) -> "CausalLanguageModel":
        """Set the mode of the adapters; the language model itself stays in eval (no dropout)."""
        super().train(mode)
        self.lm.eval()
        set_adapter_mode(self.lm, mode)
        return self

    def trainable_names(self) -> list[str]:
        """Return the names of the trained parameters; all others belong to `pretrained`."""
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def loss(self, memory_BND: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Cross-entropy of the targets and their end token; the prompts' tokens do not count.

        A target without a token in the tokenizer counts for nothing, nor does one that its prompt
        leaves no room for.

        Args:
            memory_BND: vision tokens.
            samples: B samples with a `prompt`, which may be empty, and a `target` to learn; one
                whose target is None counts for nothing. A process without any target calls with
                such a sample, since all take part in the mean.

        Returns:
            A scalar; see `text_loss`.
        """
        limit = self._text_limit(memory_BND)
        if self.max_text_tokens is not None:
            limit = min(limit, self.max_text_tokens)
        encoded = [self.text.sample(s["prompt"], s["target"], limit) for s in samples]
        rows, starts = zip(*encoded, strict=True)
        ids_BL, mask_BL = pad_rows(rows, self.text.pad, memory_BND.device, limit)
        start_B = on_device(starts, memory_BND.device)
        place_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        counts_BL = mask_BL.bool() & (place_L >= start_B[:, None])
        labels_BL = ids_BL.masked_fill(~counts_BL, IGNORED)
        logits_BLV = self._logits(memory_BND, ids_BL, mask_BL)
        return text_loss(logits_BLV[:, :-1], labels_BL[:, 1:], self.loss_mean, self.label_smoothing)

    def read(self, memory_BND: Tensor) -> Tensor:
        """Give what the text sees of the memory: the keys and values of every layer, [B, N, R].

        As a prefix the memory is seen itself.
        """
        if self.fusion == "prefix":
            return memory_BND
        memory_BND = memory_BND.to(self.lm.dtype)
        readers = cross_attention_readers(self.lm)
        return torch.cat([reader(memory_BND) for reader in readers], -1).float()

    @torch.no_grad()
    def rank(
        self,
        memory_BND: Tensor,
        samples: Sequence[Sample],
        length_normalised: bool = False,
    ) -> list[list[float]]:
        """Log-likelihood of every candidate as the continuation of its prompt.

        Exact for lists of up to `rank_shortlist` candidates. Of a longer one that many are scored
        in full, those with the likeliest first tokens, and those of a single token, which the same
        pass scores; the others get -inf.

        Args:
            memory_BND: vision tokens.
            samples: B samples with a `prompt` and their `candidates`, not necessarily equally many.
            length_normalised: divide each sum by the number of the candidate's tokens.

        Returns:
            B lists, log-likelihoods in nats: the sum over the candidate's own tokens.

        Raises:
            ConfigError: a candidate has no token, or finds no room after its prompt.
        """
        limit = self._text_limit(memory_BND)
        ranker = Ranker(self.text, self._logits, self._new_cache, limit, self.rank_shortlist)
        prompts, candidates = zip(*((s["prompt"], s["candidates"]) for s in samples), strict=True)
        return ranker.rank(memory_BND, prompts, candidates, length_normalised)

    @torch.no_grad()
    def generate(
        self,
        memory_BND: Tensor,
        samples: Sequence[Sample],
        num_beams: Annotated[int, Range(1)] = 3,
        min_new_tokens: Annotated[int, Range(0)] = 1,
        max_new_tokens: Annotated[int, Range(1)] = 20,
    ) -> list[str]:
        """Continue the prompts by beam search.

        Args:
            memory_BND: vision tokens.
            samples: B samples with a `prompt`; an empty one starts from the beginning-of-sequence
                token.
            num_beams: 1 is greedy search.
            min_new_tokens: no end token before that many.
            max_new_tokens: hard limit of the continuation.

        Returns:
            B continuations, without their prompts and special tokens.
        """
        rows = [self.text.prompt(sample["prompt"]) for sample in samples]
        limit = self._text_limit(memory_BND)
        ids_BL, mask_BL = pad_rows(rows, self.text.pad, memory_BND.device, limit - 1, "left")
        room = limit - ids_BL.shape[1]
        config = GenerationConfig(
            do_sample=False,
            num_beams=num_beams,
            min_new_tokens=min(min_new_tokens, room),
            max_new_tokens=min(max_new_tokens, room),
            bos_token_id=self.text.bos,
            eos_token_id=self.text.eos,
            pad_token_id=self.text.pad,
        )
        if self.fusion == "prefix":
            embeds_BTD, mask_BT = self._prefixed(memory_BND, ids_BL, mask_BL)
            inputs: dict[str, Any] = dict(inputs_embeds=embeds_BTD, attention_mask=mask_BT)
            skipped = 0
        else:
            inputs = dict(input_ids=ids_BL, attention_mask=mask_BL)
            if self._cache_argument:
                inputs[self._cache_argument] = self._new_cache()
            inputs["encoder_hidden_states"] = memory_BND.to(self.lm.dtype)
            skipped = ids_BL.shape[1]
        ids_BT = self.lm.generate(**inputs, generation_config=config)
        return self.text.decode(ids_BT[:, skipped:])

    def _logits(
        self, memory_BND: Tensor, ids_BL: Tensor, mask_BT: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Return logits_BLV at the text's positions, for right-padded text.

        Args:
            memory_BND: vision tokens.
            ids_BL: the text, or what follows the text in the cache.
            mask_BT: of all the text, the cache's included.
            cache: is read and filled.
        """
        extra: dict[str, Any] = {} if cache is None else {self._cache_argument: cache}
        past = 0 if cache is None else cache.get_seq_length()
        if self.fusion == "cross_attention":
            inputs = dict(input_ids=ids_BL, encoder_hidden_states=memory_BND.to(self.lm.dtype))
        else:
            embeds_BTD, mask_BT = self._prefixed(memory_BND, ids_BL, mask_BT, past > 0)
            inputs = dict(inputs_embeds=embeds_BTD)
        if self._keeps_logits:
            extra["logits_to_keep"] = ids_BL.shape[1]
        if self._takes_positions:
            places_BT = (mask_BT.cumsum(1) - 1).clamp(min=0) + self._offset
            extra["position_ids"] = places_BT[:, past:]
        # Causal attention lets no token see the padding to its right; without a mask the library
        # need not ask the device whether there is any. Behind a cache there may be some before it.
        if cache is not None:
            extra["attention_mask"] = mask_BT
        output = self.lm(**inputs, use_cache=cache is not None, **extra)
        return output.logits[:, -ids_BL.shape[1] :]

    def _prefixed(
        self, memory_BND: Tensor, ids_BL: Tensor, mask_BT: Tensor, cached: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Put the memory before the text, and before its mask; to the mask alone where cached."""
        embeds_BLD = self.lm.get_input_embeddings()(ids_BL)
        seen_BN = mask_BT.new_ones(memory_BND.shape[:2])
        if not cached:
            embeds_BLD = torch.cat([memory_BND.to(embeds_BLD.dtype), embeds_BLD], dim=1)
        return embeds_BLD, torch.cat([seen_BN, mask_BT], dim=1)

    def _new_cache(self) -> Cache | None:
        return new_cache(self.lm, self.fusion)

    def room(self, num_vision_tokens: int) -> int:
        """Give how many text tokens there are positions for beside an image's."""
        taken = num_vision_tokens if self.fusion == "prefix" else 0
        return room_for_text(self.lm, self._offset, taken)

    def num_tokens(self, sample: Sample) -> int:
        """Count the tokens of a prompt with the longest of its candidates, the start token too.

        Raises:
            ConfigError: the sample is a conversation.
        """
        if "prompt" not in sample:
            raise ConfigError(
                "The data set gives conversations, which a CausalLanguageModel does not read; set "
                "model.language to a ChatLanguageModel."
            )
        prompt = sample["prompt"]
        answers = [answer for answer in sample.get("candidates") or () if answer]
        longest = max((len(self.text.target(prompt, answer)) for answer in answers), default=0)
        return len(self.text.prompt(prompt)) + longest

    def unknown_share(self, texts: Sequence[str]) -> float:
        """Give the share of the texts' tokens that stand for words the tokenizer does not know."""
        unknown = self.text.tokenizer.unk_token_id
        ids = [token for text in texts for token in self.text.prompt(text)[1:]]
        return 0.0 if unknown is None else ids.count(unknown) / max(1, len(ids))

    def _text_limit(self, memory_BND: Tensor) -> int:
        return self.room(memory_BND.shape[1])
