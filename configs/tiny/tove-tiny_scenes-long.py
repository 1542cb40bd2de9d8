# The demo with eight times the merging, which five minutes cannot hold, and with its control: the
# baseline merged on the same images for as many steps. About forty minutes on one core.
_base_ = ["./tove-tiny_scenes.py"]

merging = dict(schedule=dict(steps=12000))

stages = [
    dict(type="TransferStage", name="plain_clip", model=dict(arm="plain")),
    dict(type="TransferStage", name="baseline", model=dict(arm="baseline")),
    dict(type="TransferStage", name="transfer"),
    dict(type="DetachStage", name="detach"),
    dict(type="MergeStage", name="merge"),
    dict(type="MergeStage", name="merged_baseline", source="baseline"),
    dict(type="ReportStage", name="report"),
]
