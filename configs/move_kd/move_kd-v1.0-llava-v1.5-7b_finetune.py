# MoVE-KD v1.0, second stage: all but the teachers at one rate; of CLIP what its tokens depend on.
_base_ = ["../llava/llava-v1.5-7b_finetune.py"]

frozen = dict(dtype="bfloat16")
model = dict(
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
vision = "encoder.model.vision_model"
student = [
    f"{vision}.embeddings",
    f"{vision}.pre_layrnorm",
    *[f"{vision}.encoder.layers.{block}" for block in range(23)],  # of 24: tokens are read at -2
]
stages = [
    dict(
        type="TrainStage",
        name="finetune",
        source="pretrain",
        trains=["projector", "adapters", "language", *student],
    ),
    # With its MoLE; a MergeStage folds that into a stock CLIP for a Llava folder.
    dict(type="ExportStage", name="export", source="finetune"),
]
