# What each expert of the demo contributes, from the scores of all 16 sets of the four. After the demo,
# in its folder: python tools/train.py THIS --work-dir work_dirs/tove-tiny_scenes --stage contribution
_base_ = ["./tove-tiny_scenes.py"]

stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    dict(type="TrainStage", name="baseline", model=dict(type="MatchedBaseline")),
    dict(type="TrainStage", name="transfer", row="tove"),
    dict(type="ContributionStage", name="contribution", source="transfer"),
    dict(type="DetachStage", name="detach", source="transfer"),
    dict(type="MergeStage", name="merge", source="transfer"),
    dict(type="ExportStage", name="merged", source="merge", folder="export"),
    dict(type="ReportStage", name="report"),
]
