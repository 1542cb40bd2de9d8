# MoVE-KD v1.0 around LLaVA's CLIP-L/14, for the configs of both stages: `model = _base_.method`.
# EVA-02-L at 896 px: its patches of 14 make the 64 x 64 tokens of the release, whose EVA has patches of 16.
frozen = dict(dtype="bfloat16")
method = dict(
    type="MoVEKD",
    preset="paper",
    mole=dict(num_experts=3, rank=32, alpha=1.0, dropout=0.05),
    experts=dict(
        eva=dict(type="eva02_clip_large", image_size=896, **frozen),
        convnext=dict(
            type="open_clip",
            model="convnext_xxlarge",
            tag="laion2b_s34b_b82k_augreg_soup",
            image_size=1024,
            **frozen,
        ),
    ),
)
