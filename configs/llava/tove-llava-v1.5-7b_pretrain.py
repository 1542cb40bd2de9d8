# ToVE in LLaVA-1.5 (ToVE_Vicuna), first stage: what fuses CLIP's tokens with four experts' learns to caption
# beside the projector; t_fuse stands where <image> stands, as many tokens as CLIP alone has.
_base_ = ["./llava-v1.5-7b_pretrain.py"]

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
    dict(type="TrainStage", name="pretrain", row="tove", trains=["projector", "gate", "transfer"])
]
