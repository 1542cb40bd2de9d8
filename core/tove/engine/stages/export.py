"""Export: what a method leaves behind, as an ordinary encoder that stock libraries load.

A model that can be deployed gives the state of plain CLIP around its own encoder (`deployed`). The
encoder is written in its library's own format, and the row is measured on what a user would load:
the folder, read anew, in front of the projection and adapters of that state. One that talks about
images is written as a whole as well, beside it (`llava_export`).
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from torch import Tensor

from tove.atomic_io import temporary_folder
from tove.backbones.clip.retrieval import Encoder, retrieval_of_export
from tove.backbones.experts.licences import Terms
from tove.backbones.export_folder import check_free
from tove.engine.checkpoint import save_checkpoint
from tove.engine.digests import digests_of
from tove.engine.planning import source_of
from tove.engine.stages.context import StageContext
from tove.engine.stages.evaluate_row import evaluation_runner, measure_row
from tove.engine.stages.llava_export import check_llava, write_llava
from tove.engine.stages.model_card import write_model_card
from tove.engine.stages.models import exported_encoder
from tove.engine.stages.source import check_reference, check_source
from tove.errors import ConfigError
from tove.protocols import Role, Row
from tove.registry import ENCODERS, STAGES

__all__ = ["ExportStage", "rehearse_exports"]

_ENCODER = "encoder."
_RETRIEVED = 256  # images that retrieval is measured on


@STAGES.register_module()
class ExportStage:
    """Writes the encoder of another stage's model and measures what was written.

    Args:
        name: the stage's name.
        source: the stage whose model is exported.
        folder: where to, within the work folder; by default `NAME/export`. A model with a
            `ChatLanguageModel` is written to `FOLDER-llava` as well.
        row: the row's name; by default the stage's.
        role: the part that its row plays.
        reference: the row that its gain is over; by default the last baseline, else plain CLIP.
    """

    depends_on = ("model", "test_dataloader", "test_evaluator", "seed")
    repeats = False

    def __init__(
        self,
        name: str,
        source: str,
        folder: str | None = None,
        row: str | None = None,
        role: Role = "merged",
        reference: str | None = None,
    ) -> None:
        self.name, self.source = name, source
        self.folder = folder or f"{name}/export"
        self.row, self.role, self.reference = row or name, role, reference

    def check(self, context: StageContext) -> None:
        """Check that there is a model to export, in a form that the encoder's class can write."""
        context.require(self.name, "test_dataloader", "test_evaluator")
        check_source(context, self.name, self.source)
        check_reference(context, self.name, self.reference)
        others = [entry for entry in context.cfg.stages if entry["name"] != self.name]
        taken = {name: "a stage" for name in (self.name, *(entry["name"] for entry in others))}
        # Tokens are kept by the folder that an encoder was read from.
        taken |= {e["folder"]: f"the export of '{e['name']}'" for e in others if e.get("folder")}
        if (
            not (context.work_dir / self.folder)
            .resolve()
            .is_relative_to(context.work_dir.resolve())
        ):
            raise ConfigError(
                f"stages.{self.name}.folder is '{self.folder}', which is outside the run's work "
                "folder; name a path within it."
            )
        if self.folder in taken:
            raise ConfigError(
                f"stages.{self.name}.folder is '{self.folder}', which is the folder of "
                f"{taken[self.folder]}; name another."
            )
        check_free(context.work_dir / self.folder)
        encoder = ENCODERS.get(context.cfg.model.encoder["type"])
        if not hasattr(encoder, "read_export"):
            raise ConfigError(
                f"Stage '{self.name}' exports the encoder, which model.encoder of type "
                f"{context.cfg.model.encoder['type']} cannot be; use TransformersCLIP, OpenCLIP or "
                "TransformersViT, or take the stage out."
            )

    def run(self, context: StageContext) -> list[Row]:
        """Export, read back, measure."""
        model, meta = context.load_model(context.model_path(self.source))
        state = _deployed(model, self.source)
        folder = context.work_dir / self.folder
        if is_main_process():
            _write(model, state, folder, meta.get("licences", []))
        barrier()
        context.files[folder] = f"{self.row}: the encoder, in its library's own format"
        retrieval = measure_retrieval(context, model, folder)
        del model  # what is measured needs the room
        row = self._measure(context, state, meta) | {"retrieval": retrieval}
        if is_main_process():
            teachers = [Terms(**entry) for entry in meta.get("licences", [])]
            write_model_card(folder, row, context.rows, teachers, meta.get("method", {}))
        own = {"trainable_parameters": "trained_parameters", "merge_loss": "merge_loss"}
        return [row | {key: meta[name] for key, name in own.items() if name in meta}]

    def _measure(
        self, context: StageContext, state: Mapping[str, Tensor], source: Mapping[str, Any]
    ) -> Row:
        """Read the export as any encoder, behind it the rest of the deployed state."""
        folder, export = context.folder(self.name), context.work_dir / self.folder
        entries = {key: source.get(key, 0) for key in ("training_images", "steps")}
        exported = exported_encoder(context.cfg.model.encoder, export)
        own = source.get("settings", {})  # a stage may have had another language model
        over = {key: own[key] for key in ("language", "projector") if key in own}
        settings = {"type": "PlainCLIP", **over}
        model = context.build_model({**settings, "encoder": exported})
        rest = {name: t for name, t in state.items() if not name.startswith(_ENCODER)}
        model.load_trainable(rest)
        where = Path(*[".."] * len(Path(self.name).parts), self.folder)
        meta = context.meta(
            model,
            self.name,
            settings=settings,
            export=str(where),
            export_digests=digests_of(export, [export]),
            **entries,
        )
        save_checkpoint(folder / "model.pth", model, meta)
        context.files[folder / "model.pth"] = f"{self.row}: projection and adapters"
        llava, licences = context.work_dir / f"{self.folder}-llava", source.get("licences", [])
        if write_llava(context, model, llava, self.row, licences):
            context.files[llava] = f"{self.row}: the whole model, for stock transformers"
        return measure_row(
            context,
            evaluation_runner(context, self.name, model),
            name=self.row,
            role=self.role,
            reference=self.reference,
            experts=[],
            stage=self.name,
            **entries,
        )


def measure_retrieval(
    context: StageContext,
    model: Any,  # noqa: ANN401 - a method's
    folder: Path,
) -> dict[str, Any]:
    """Measure what the export does to zero-shot retrieval, on captions of the test split.

    Args:
        context: the run.
        model: whose encoder names the source.
        folder: the export.

    Returns:
        R@1 both ways of the source and of each format, and the number of `images`; empty where the
        split has no captions or the encoder no text tower.
    """
    dataset: Any = context.evaluation_loader("test_dataloader").dataset
    places: dict[str, int] = {}
    for index in range(len(dataset)):
        sample = dataset.get_data_info(index)
        if sample["task"] == "caption":
            places.setdefault(sample["image_id"], index)
    encoder = model.plain_encoder()
    if not places or not isinstance(encoder, Encoder):
        return {}
    items = [dataset[index] for index in list(places.values())[:_RETRIEVED]]
    items = [item for item in items if not item["sample"].get("skipped")]
    images_SCHW = torch.stack([item["image"] for item in items]).float() / 255
    captions = [item["sample"]["target"] for item in items]
    recalls = retrieval_of_export(encoder, folder, images_SCHW, captions)
    return {**recalls, "images": len(items)} if len(recalls) > 1 else {}


def rehearse_exports(context: StageContext, stage: str, model: Any) -> None:  # noqa: ANN401
    """Export once before a training that is to be exported: what no format holds is said now.

    Args:
        context: the run.
        stage: that is about to train.
        model: as it will train.
    """
    if not list(_exports_of(context, stage)):
        return
    if is_main_process():
        with temporary_folder(context.work_dir / "rehearsal") as folder:
            encoder = _write(model, _deployed(model, stage), folder / "export")
            check_llava(context, getattr(model, "teacher", model), encoder)
    barrier()


def _exports_of(context: StageContext, stage: str) -> Iterator[Mapping[str, Any]]:
    for entry in context.cfg.stages:
        if entry["type"] == "ExportStage" and source_of(entry) == stage:
            yield entry


def _deployed(model: Any, stage: str) -> dict[str, Tensor]:  # noqa: ANN401
    state = model.deployed()
    if state is None:
        raise ConfigError(
            f"The model of stage '{stage}' is a {type(model).__name__}, which has no encoder of "
            "its own to export; merge it first, by a MergeStage with it as source."
        )
    return {name: tensor.detach() for name, tensor in state.items()}


def _write(
    model: Any,  # noqa: ANN401
    state: Mapping[str, Tensor],
    folder: Path,
    teachers: Sequence[Mapping[str, Any]] = (),
) -> Any:  # noqa: ANN401
    """Write, and return, the encoder that a deployed state holds the weights of."""
    encoder: Any = deepcopy(model.deployed_encoder()).requires_grad_(False)
    own = {n.removeprefix(_ENCODER): t for n, t in state.items() if n.startswith(_ENCODER)}
    encoder.load_state_dict(own, strict=False)
    encoder.teachers = [dict(entry) for entry in teachers]
    encoder.eval().export(folder)
    return encoder
