# The merge's student trained along in the transfer stage (the paper's auxiliary learning target), held
# against one that has a stage and images of its own, with the same loss, optimiser, rate and steps, and
# against the demo's merge. About eight minutes on two CPU cores.
_base_ = ["./tove-tiny_scenes.py"]

alike = dict(
    model=dict(loss="readout", keep=0.0), schedule=dict(steps=500, lr=2e-3, optimizer="AdamW")
)
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
    dict(type="MergeStage", name="merge_alike", source="transfer", **alike),
    dict(type="ExportStage", name="merged_alike", source="merge_alike"),
    dict(type="MergeStage", name="merge", source="transfer"),
    dict(type="ExportStage", name="merged", source="merge"),
    dict(type="ReportStage", name="report"),
]
