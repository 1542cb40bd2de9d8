# ToVE at the size of its paper: CLIP ViT-B/16 at 224 pixels, the paper's five kinds of experts, RoBERTa,
# trained on COCO captions and VSR's statements. Where the paper's settings are not known, Prismer's
# (arXiv 2303.02506) stand in: batch 1,024, AdamW, 2,000 steps of warm-up, a cosine, beam 3.
# For accelerators: torchrun --nproc_per_node=8 tools/train.py THIS --launcher pytorch --amp
#
# data/coco_vsr/
#   train2017/ val2017/ unlabeled2017/                        COCO 2017, as it is downloaded
#   annotations/captions_train2017.json captions_val2017.json
#   vsr/images/ vsr/zeroshot/{train,dev,test}.jsonl           VSR's images and its zero-shot split
_base_ = ["../_base_/runtime.py"]

# --- settings -------------------------------------------------------------------------------------
seed = 0
data_root = "data/coco_vsr"
image_size = 224
batch_size = 128  # in each process; 8 of them make 1,024
workers = dict(num_workers=8, persistent_workers=True)

# --- model ----------------------------------------------------------------------------------------
# Frozen, so half the bytes and no loss of gradients; leave dtype out where bfloat16 is slow.
frozen = dict(dtype="bfloat16")
model = dict(
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
    generation=dict(num_beams=3, min_new_tokens=8, max_new_tokens=20),
)

# --- data -----------------------------------------------------------------------------------------
captions = dict(type="CocoCaptions", prompt="A picture of")
statements = dict(type="VSRStatements", img_dir="vsr/images")
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(ann_file="annotations/captions_train2017.json", img_dir="train2017", **captions),
            # 3,489 statements beside 592,000 captions: one sample in nine.
            dict(
                type="RepeatDataset",
                times=20,
                dataset=dict(ann_file="vsr/zeroshot/train.jsonl", **statements),
            ),
        ],
    ),
    **workers,
)
val_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(ann_file="vsr/zeroshot/dev.jsonl", test_mode=True, **statements),
    **workers,
)
test_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(ann_file="vsr/zeroshot/test.jsonl", test_mode=True, **statements),
            dict(
                ann_file="annotations/captions_val2017.json",
                img_dir="val2017",
                test_mode=True,
                **captions,
            ),
        ],
    ),
    **workers,
)
test_evaluator = [dict(type="StatementAccuracy"), dict(type="CaptionScore")]
unlabelled_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="UnlabelledImages", img_dir="unlabeled2017"),
    **workers,
)

# --- schedule -------------------------------------------------------------------------------------
schedule = dict(
    steps=12000,
    lr=3e-4,
    weight_decay=0.05,
    warmup=2000,
    checkpoint_interval=1000,
    val_interval=2000,
)
merging = dict(
    model=dict(type="Merge", student="full", loss="mse"),
    schedule=dict(steps=10000, lr=1e-4, warmup=500),
)

# --- stages ---------------------------------------------------------------------------------------
stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    dict(type="TrainStage", name="baseline", model=dict(type="MatchedBaseline")),
    dict(type="TrainStage", name="transfer", row="tove"),
    dict(type="DetachStage", name="detach", source="transfer"),
    dict(type="MergeStage", name="merge", source="transfer"),
    dict(type="ExportStage", name="merged", source="merge", folder="export"),
    dict(type="ReportStage", name="report"),
]
