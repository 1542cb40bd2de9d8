# ToVE around LLaVA's CLIP-L/14, for the configs of both stages: `model = _base_.method`.
frozen = dict(dtype="bfloat16")
method = dict(
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
fusing = ["projector", "gate", "transfer"]
