"""The model card of an exported encoder: a README.md with the metadata that a model hub reads.

It tells what a user of the weights has to know and the weights do not say: which of the hidden
states was trained, from which experts under which licences, how well it did, how it is loaded.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from tove.atomic_io import write_text
from tove.backbones.experts.licences import Terms, terms_section
from tove.backbones.export_folder import CARD, MARK
from tove.config.environment import versions
from tove.data.annotations import read_json
from tove.engine.rows import REFERENCE_ROLES, WRITTEN, role_of, show_score
from tove.protocols import Row

__all__ = ["write_model_card"]


def write_model_card(
    folder: Path,
    row: Row,
    rows: Sequence[Row],
    teachers: Sequence[Terms],
    origin: Mapping[str, Any],
) -> None:
    """Write the card of an export beside its weights.

    Args:
        folder: of the export.
        row: that was measured on it.
        rows: those measured before it, which it is set beside.
        teachers: the experts that it has learned from.
        origin: of the method, see `tove.config.environment.origin_of`.
    """
    about = read_json(str(folder / MARK), WRITTEN, hint=dict)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    has_text = has_tokenizer and "transformers" in about.get("zero_shot", ())
    text = "\n".join(
        [
            "---",
            _metadata(row, about),
            "---",
            "",
            f"# {row['name']}: a vision encoder that has learned from {len(teachers)} experts",
            "",
            *_what(about, row, origin),
            "",
            *_scores(row, rows),
            "",
            *terms_section(teachers),
            "",
            *_use(about, has_text, (folder / "open_clip").is_dir()),
            "",
        ]
    )
    write_text(folder / CARD, text)


def _metadata(row: Row, about: Mapping[str, Any]) -> str:
    results = [
        EvalResult(
            task_type="image-feature-extraction",
            dataset_type="custom",
            dataset_name="the run's test split",
            metric_type=name,
            metric_value=round(score["value"], 4),
        )
        for name, score in _headlines(row).items()
    ]
    source = str(about["source"])
    is_hub_id = source.count("/") == 1 and not source.startswith((".", "/", "~", "pkg:"))
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["clip", "tove", "knowledge-transfer"],
        base_model=source.removeprefix("hf-hub:") if is_hub_id else None,
        model_name=row["name"],
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _what(about: Mapping[str, Any], row: Row, origin: Mapping[str, Any]) -> Iterator[str]:
    (rows, columns), layer = about["grid"], about["layer"]
    packages = {**origin, **versions()}
    method = packages.pop("type", "a method")
    made_by = ", ".join([method, *(f"{name} {version}" for name, version in packages.items())])
    yield (
        f"An ordinary checkpoint of the same architecture and cost as its source, "
        f"`{about['source']}`. No expert is needed to run it."
    )
    yield ""
    yield (
        f"- What was trained are the patch tokens `hidden_states[{layer}]`, without the class "
        f"token: {rows} x {columns} of width {about['width']} at {about['image_size']} pixels. The "
        "class token, and what is pooled from it, was not."
    )
    yield (
        f"- LLaVA reads layer -2 unless told otherwise: set `vision_feature_layer={layer}` and "
        '`vision_feature_select_strategy="default"`.'
    )
    trained = f"{row['steps']:,} steps on {row['training_images']:,} images"
    yield f"- Trained for {trained}, seed {row['seed']}."
    yield f"- Made by {made_by}."


def _headlines(row: Row) -> dict[str, Any]:
    """Return the metrics that have an interval; kinds of questions and shares have none."""
    return {name: score for name, score in row["metrics"].items() if "low" in score}


def _scores(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the table of the row and of those that others are held against."""
    beside = [other for other in rows if role_of(other) in (*REFERENCE_ROLES, "method")]
    yield "## Scores"
    yield ""
    yield "On the run's test split, behind its language model, with 95 % intervals."
    yield ""
    names = list(_headlines(row))
    yield f"| | experts | {' | '.join(names)} |"
    yield f"|---|---|{'---|' * len(names)}"
    for entry in (row, *beside):
        found = [show_score(entry["metrics"].get(name)) for name in names]
        yield f"| {entry['name']} | {len(entry['experts'])} | {' | '.join(found)} |"
    retrieval = dict(row.get("retrieval") or {})
    number = retrieval.pop("images", 0)
    if retrieval:
        yield ""
        yield f"Zero-shot retrieval among {number} images and their captions, R@1:"
        yield ""
        yield "| encoder | image to text | text to image | chance |"
        yield "|---|---|---|---|"
        for kind, recall in retrieval.items():
            found = [recall[way] for way in ("image_to_text", "text_to_image", "chance")]
            yield f"| {kind} | {' | '.join(f'{value:.3f}' for value in found)} |"


def _use(about: Mapping[str, Any], has_text: bool, has_open_clip: bool) -> Iterator[str]:
    layer = about["layer"]
    yield "## Use"
    yield ""
    yield "```python"
    yield "import torch"
    yield "from PIL import Image"
    yield "from transformers import AutoImageProcessor, AutoModel"
    yield ""
    yield 'processor = AutoImageProcessor.from_pretrained("FOLDER")'
    yield 'model = AutoModel.from_pretrained("FOLDER")'
    yield 'encoder = getattr(model, "vision_model", model)'
    yield 'photo = Image.open("photo.jpg").convert("RGB")'
    yield "side = min(photo.size)  # the central square, as in training"
    yield "left, top = (photo.width - side) // 2, (photo.height - side) // 2"
    yield "photo = photo.crop((left, top, left + side, top + side))"
    yield 'pixels = processor(photo, return_tensors="pt").pixel_values'
    yield "with torch.no_grad():"
    yield f"    states = encoder(pixels, output_hidden_states=True).hidden_states[{layer}]"
    yield "tokens = states[:, 1:]  # [1, N, D], no class token"
    yield "```"
    yield ""
    if has_text:
        yield from _zero_shot()
    if has_open_clip:
        yield 'In open_clip: `open_clip.create_model_and_transforms("local-dir:FOLDER/open_clip")`.'
    yield "For ONNX: `mim run tove_plugins export FOLDER --format onnx`."
    yield ""
    yield (
        "The processor alone resizes before it crops and rounds in between, and it drops "
        "transparency, which training put over white: see to both before, as above."
    )


def _zero_shot() -> Iterator[str]:
    yield "Zero-shot, by the source's text tower, goes on from there:"
    yield ""
    yield "```python"
    yield "from transformers import AutoTokenizer"
    yield ""
    yield 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    yield "positions = model.config.text_config.max_position_embeddings"
    # CLIP takes any length, SigLIP reads the last position.
    yield 'how = dict(padding="max_length", max_length=positions, truncation=True)'
    yield 'texts = tokenizer(["a red ball", "a blue box"], return_tensors="pt", **how)'
    yield "with torch.no_grad():"
    yield "    likeness = model(**texts, pixel_values=pixels).logits_per_image  # [1, 2]"
    yield "```"
    yield ""
