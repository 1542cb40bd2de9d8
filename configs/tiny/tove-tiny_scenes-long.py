# The demo with four times the merging on four times the images, which five minutes cannot hold, and with
# its control: the baseline merged alike. ToVE's merged encoder ends where ToVE is
# (docs/results/merging.md). About half an hour on one core.
_base_ = ["./tove-tiny_scenes.py"]

data_root = "data/tiny_scenes_long"
scenes = dict(data_root=data_root, unlabelled=12000)
merging = dict(schedule=dict(steps=6000))

stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    dict(type="TrainStage", name="baseline", model=dict(type="MatchedBaseline")),
    dict(type="TrainStage", name="transfer", row="tove"),
    dict(type="DetachStage", name="detach", source="transfer"),
    dict(type="MergeStage", name="merge", source="transfer"),
    dict(type="ExportStage", name="merged", source="merge", folder="export"),
    dict(type="MergeStage", name="merge_baseline", source="baseline"),
    dict(type="ExportStage", name="merged_baseline", source="merge_baseline", role="control"),
    dict(type="ReportStage", name="report"),
]
