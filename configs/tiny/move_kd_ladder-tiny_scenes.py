# MoVE-KD's ablation ladder on the tiny world, its presets, and what they are held against: plain CLIP, a CLIP
# fine-tuned as hard without teachers, and ToVE's merge, whose encoder costs what plain CLIP does.
# All students see the same images for as many steps. About an hour and a half on two CPU cores.
_base_ = ["./tove-tiny_scenes.py"]

# CLIP's own weights move a twentieth as fast as what is new.
slowly = dict(optim_wrapper=dict(paramwise_cfg=dict(custom_keys={"encoder": dict(lr_mult=0.05)})))
train = dict(type="TrainStage", runner=slowly)
mole = dict(num_experts=3, rank=8, dropout=0.05)
student = dict(type="MoVEKD", student="full")
# The paper's first rung is distillation by interpolation, without an adapter. Widths differ here, so a
# linear head on the student's side stands in: tokens are resampled, no teacher's side is trained.
plain = dict(token_weight="none", teacher_weight="uniform")
by_head = dict(adapter="student_head", **plain)
no_teachers = dict(clip_share=1.0, kd_weight=0.0)

stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    dict(
        name="no_teachers",
        role="baseline",
        model=dict(**student, mole=mole, switches=no_teachers),
        **train,
    ),
    # The ladder: each rung adds one part to the one before.
    dict(name="kd", model=dict(**student, switches=by_head), **train),
    dict(name="adapter", model=dict(**student, switches=plain), **train),
    dict(name="mole", model=dict(**student, mole=mole, switches=plain), **train),
    dict(
        name="token_weight",
        model=dict(**student, mole=mole, switches=dict(teacher_weight="uniform")),
        **train,
    ),
    dict(name="paper", model=dict(**student, mole=mole), **train),  # and teacher weights
    dict(name="released", model=dict(**student, mole=mole, preset="released"), **train),
    dict(name="fixed", model=dict(**student, mole=mole, preset="fixed"), **train),
    # One encoder of plain CLIP's cost out of either method.
    dict(type="MergeStage", name="merge_fixed", source="fixed"),
    dict(type="ExportStage", name="merged_fixed", source="merge_fixed"),
    dict(type="TrainStage", name="transfer", row="tove"),
    dict(type="MergeStage", name="merge_tove", source="transfer"),
    dict(type="ExportStage", name="merged_tove", source="merge_tove"),
    dict(type="ReportStage", name="report"),
]
