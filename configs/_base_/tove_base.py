# ToVE at the size of its paper, for its configs: `model = _base_.method`. CLIP ViT-B/16 at 224 pixels, the
# paper's five kinds of experts, RoBERTa. Frozen parts take half the bytes and lose no gradients; leave dtype
# out where bfloat16 is slow.
frozen = dict(dtype="bfloat16")
method = dict(
    type="ToVE",
    encoder=dict(type="TransformersCLIP", pretrained="openai/clip-vit-base-patch16", layer=-1),
    experts=dict(
        depth=dict(type="dpt_hybrid_midas", **frozen),
        normals=dict(type="normal_depth_anything_v2", **frozen),
        edges=dict(type="edge_dexined", **frozen),  # needs kornia: the extra `maps`
        dino=dict(type="dinov2_base", **frozen),
        eva=dict(type="eva02_clip_large", **frozen),
    ),
    projector=dict(hidden=768),
    gate=dict(),
    transfer=dict(scale="learned", zero_init=True),
    balance_weight=0.01,
    expert_dropout=0.1,
    language=dict(
        type="CausalLanguageModel",
        pretrained="FacebookAI/roberta-base",
        fusion="cross_attention",
        adapters=dict(type="bottleneck", width=64),
        label_smoothing=0.1,
    ),
)
seed = 0
image_size = 224
workers = dict(num_workers=8, persistent_workers=True)
merging = dict(
    model=dict(type="Merge", student="full", loss="mse"),
    schedule=dict(steps=10000, lr=1e-4, warmup=500),
)
