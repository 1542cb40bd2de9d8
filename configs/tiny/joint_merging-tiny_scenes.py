# The merge's student trained along in the transfer stage (the paper's auxiliary learning target), held
# against the merge that has a stage and images of its own, with as many steps as the student that trains
# along and with three times as many. About eight minutes on two CPU cores.
_base_ = ["./tove-tiny_scenes.py"]

short = dict(steps=500)
stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    dict(type="TrainStage", name="transfer", row="tove"),
    dict(
        type="TrainStage",
        name="joint",
        row="tove_joint",
        model=dict(merging=dict(student="full", loss="readout")),
    ),
    dict(type="ExportStage", name="merged_joint", source="joint"),
    dict(type="MergeStage", name="merge_short", source="transfer", schedule=short),
    dict(type="ExportStage", name="merged_short", source="merge_short"),
    dict(type="MergeStage", name="merge", source="transfer"),
    dict(type="ExportStage", name="merged", source="merge"),
    dict(type="ReportStage", name="report"),
]
