# MoVE-KD on the tiny world: the four experts and CLIP itself teach a student with MoLE while it is read,
# then the merge folds what it learned into a plain CLIP. Held against plain CLIP, and against a student
# that is fine-tuned as hard without teachers beside CLIP. About ten minutes on two CPU cores.
_base_ = ["./tove-tiny_scenes.py"]

student = dict(
    type="MoVEKD",
    preset="fixed",
    mole=dict(num_experts=3, rank=8, dropout=0.05),
    student="full",
)
# CLIP's own weights move a twentieth as fast as what is new.
slowly = dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys={"encoder": dict(lr_mult=0.05)})))
stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    # The same student with no teacher but its own past.
    dict(
        type="TrainStage",
        name="no_teachers",
        role="baseline",
        runner=slowly,
        model=dict(**student, switches=dict(clip_share=1.0, kd_weight=0.0)),
    ),
    dict(type="TrainStage", name="distil", row="move_kd", model=student, runner=slowly),
    dict(type="MergeStage", name="merge", source="distil"),
    dict(type="ExportStage", name="merged", source="merge", folder="export"),
    dict(type="ReportStage", name="report"),
]
