# ToVE in LLaVA-1.5 (ToVE_Vicuna), second stage: Vicuna learns along. In the first stage's work folder.
_base_ = ["./llava-v1.5-7b_finetune.py"]

frozen = dict(dtype="bfloat16")
model = dict(
    type="ToVE",
    experts=dict(
        depth=dict(type="dpt_hybrid_midas", **frozen),
        dino=dict(type="dinov2_large", **frozen),
        eva=dict(type="eva02_clip_large", **frozen),
        sam=dict(type="sam_vit_l", **frozen),
    ),
    balance_weight=0.01,
    expert_dropout=0.1,
)
stages = [
    dict(
        type="TrainStage",
        name="finetune",
        source="pretrain",
        row="tove",
        trains=["projector", "gate", "transfer", "language"],
    ),
    dict(type="DetachStage", name="detach", source="finetune", rule="gate"),
]
