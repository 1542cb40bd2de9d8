# ToVE at the size of its paper: CLIP ViT-B/16 at 224 pixels, the paper's five kinds of experts, RoBERTa,
# trained on COCO captions and VSR's statements. Where the paper's settings are not known, Prismer's
# (arXiv 2303.02506) stand in: batch 1,024, AdamW, 2,000 steps of warm-up, a cosine, beam 3.
# For accelerators: torchrun --nproc_per_node=8 tools/train.py THIS --launcher pytorch --amp
#
# data/coco_vsr/
#   train2017/ val2017/ unlabeled2017/                        COCO 2017, as it is downloaded
#   annotations/captions_train2017.json captions_val2017.json
#   vsr/images/ vsr/zeroshot/{train,dev,test}.jsonl           VSR's images and its zero-shot split
_base_ = ["../_base_/runtime.py", "../_base_/tove_base.py"]

# --- settings -------------------------------------------------------------------------------------
data_root = "data/coco_vsr"
batch_size = 128  # in each process; 8 of them make 1,024

# --- model ----------------------------------------------------------------------------------------
model = dict(generation=dict(num_beams=3, min_new_tokens=8, max_new_tokens=20), **_base_.method)

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
    **_base_.workers,
)
val_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(ann_file="vsr/zeroshot/dev.jsonl", test_mode=True, **statements),
    **_base_.workers,
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
    **_base_.workers,
)
test_evaluator = [dict(type="StatementAccuracy"), dict(type="CaptionScore")]
unlabelled_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="UnlabelledImages", img_dir="unlabeled2017"),
    **_base_.workers,
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
