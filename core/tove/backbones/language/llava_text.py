"""Tokenizer, chat template and model card of a Llava folder.

A folder's processor encodes a text in one piece, `<image>` being a token of its own. Its template
takes messages of transformers: roles user and assistant, a content that is a text or a list of
dict(type="image") and dict(type="text", text=..); images go before the text, as in LLaVA's data.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import AddedToken

from tove.backbones.experts.licences import Terms, terms_section
from tove.backbones.language.chat import ChatLanguageModel
from tove.backbones.language.chat_formats import IMAGE, VICUNA
from tove.backbones.language.chat_tokens import IMAGE_ID
from tove.errors import ConfigError

__all__ = ["folder_tokenizer", "model_card"]

# Every content becomes one text, kept in `flat.messages`.
_FLATTEN = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- set own = namespace(text='') -%}{%- if message['content'] is string -%}"
    "{%- set own.text = message['content'] -%}{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'image' -%}"
    "{%- set own.text = own.text + MARKER -%}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}"
    "{%- set own.text = own.text + part['text'] -%}{%- endfor -%}{%- endif -%}"
    "{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': own.text}] -%}"
    "{%- endfor -%}"
)
_V1 = (
    "{{- 'SYSTEM ' -}}{%- for message in flat.messages -%}{%- if message['role'] == 'user' -%}"
    "{{- 'USER: ' + message['content'] + ' ' -}}{%- else -%}"
    "{{- 'ASSISTANT: ' + message['content'] + 'END' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"
)
_PLAIN = "{%- for message in flat.messages[:1] -%}{{- 'IMAGE' -}}{%- endfor -%}"
_PROBE = [
    {"from": "human", "value": f"{IMAGE}\nWhat is on the mat?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "And how many?"},
]


def folder_tokenizer(language: ChatLanguageModel) -> Any:  # noqa: ANN401
    """Return a copy of a model's tokenizer with `<image>`, padding and the folder's template.

    Raises:
        ConfigError: no template makes the folder's processor give the token ids of training.
    """
    wanted = language.text.prompt(_PROBE, 1).ids
    # SentencePiece's newer tokenizers put no space before a text behind a token, LLaVA's training
    # does: written out, the ids are the same.
    for marker in (f"{IMAGE}\n", f"{IMAGE} \n"):
        tokenizer = _prepared(language, marker)
        messages = [
            {"role": "user", "content": [{"type": "image"}, _text("What is on the mat?")]},
            {"role": "assistant", "content": [_text("A cat.")]},
            {"role": "user", "content": [_text("And how many?")]},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        image = tokenizer.convert_tokens_to_ids(IMAGE)
        ids = tokenizer(text)["input_ids"]
        if [IMAGE_ID if token == image else token for token in ids] == wanted:
            return tokenizer
    raise ConfigError(
        "The tokenizer of language.pretrained encodes a conversation as stock transformers writes "
        "it otherwise than in training, so the folder's answers would not be the model's; train "
        "with language.chat='template', whose text stock processors encode as it is."
    )


def _prepared(language: ChatLanguageModel, marker: str) -> Any:  # noqa: ANN401
    tokenizer = deepcopy(language.text.tokenizer)
    own = tokenizer.chat_template if language.chat == "template" else None
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.convert_ids_to_tokens(
            language.end_ids[0]
        )
    tokenizer.padding_side = "left"
    # A tokenizer without a class of its own would give token types too, which no Llava takes.
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    end = tokenizer.convert_ids_to_tokens(language.end_ids[0])
    flatten = _FLATTEN.replace("MARKER", repr(marker))
    if language.chat == "v1":
        tokenizer.chat_template = flatten + _V1.replace("'SYSTEM '", _quoted(f"{VICUNA} ")).replace(
            "END", end
        )
    elif language.chat == "plain":
        tokenizer.chat_template = flatten + _PLAIN.replace("IMAGE", IMAGE)
    else:
        tokenizer.chat_template = f"{flatten}{{%- set messages = flat.messages -%}}{own}"
        # Not every server reads generation_config.json; some stop at the tokenizer's end alone.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(language.stop_ids[0])
        _without_start(tokenizer)
    return tokenizer


def _without_start(tokenizer: Any) -> None:  # noqa: ANN401
    """Let a tokenizer add no start token: a template writes its own, where it has one."""
    if getattr(tokenizer, "add_bos_token", False):
        tokenizer.add_bos_token = False
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B")


def _quoted(text: str) -> str:
    return '"' + text + '"'


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def model_card(
    title: str,
    model_class: str,
    layer: int,
    licence: str | None,
    teachers: Sequence[Terms],
    parts: Sequence[tuple[str, str]],
) -> str:
    """Write the README.md of a folder.

    Args:
        title: of the model.
        model_class: of transformers, that reads it.
        layer: of CLIP's hidden states that the language model reads.
        licence: identifier of the licence of the whole, as its publisher decides; None if open.
        teachers: the experts whose knowledge is in it, with their terms.
        parts: (what, where from) of the encoder and the language model.
    """
    head = ["---", "library_name: transformers", "pipeline_tag: image-text-to-text"]
    head += [f"license: {licence}", "---"] if licence else ["---"]
    body = [
        f"# {title}",
        "",
        "A vision-language model. Its vision encoder is an ordinary CLIP of the same size and cost "
        "as its source.",
        "",
        *[f"- {what}: `{source}`" for what, source in parts],
        f"- Image tokens: `hidden_states[{layer}]` of CLIP, without the class token "
        f"(`vision_feature_layer={layer}` in config.json). Another layer was never trained for.",
        "",
        *terms_section(teachers),
        "",
        "## Use",
        "",
        "Images are resized as Pillow does it; transformers 5 takes another way, and slightly "
        'other pixels, unless told `backend="pil"`.',
        "",
        "```python",
        f"from transformers import AutoProcessor, {model_class}",
        "",
        f'model = {model_class}.from_pretrained("FOLDER")',
        'processor = AutoProcessor.from_pretrained("FOLDER")  # transformers 5: backend="pil"',
        'content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]',
        'messages = [{"role": "user", "content": content}]',
        "text = processor.apply_chat_template(messages, add_generation_prompt=True)",
        'inputs = processor(images=image, text=text, return_tensors="pt")',
        "ids = model.generate(**inputs, max_new_tokens=64)",
        'print(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```",
    ]
    return "\n".join([*head, "", *body, ""])
