# ToVE base, pre-trained on image-text pairs: COCO's, Visual Genome's regions, CC3M's and SBU's; measured on
# NoCaps, none of which it has seen. Where the paper's settings are not known Prismer's (arXiv 2303.02506) stand
# in: 20 passes in batches of 1,024, AdamW, 2,000 steps of warm-up, a cosine, beam 3, 8 to 20 words.
# torchrun --nproc_per_node=8 tools/train.py THIS --launcher pytorch --amp --work-dir work_dirs/tove-base
#
# data/
#   karpathy/ nocaps/         as configs/benchmarks/karpathy.py and nocaps.py have them
#   visual_genome/            region_descriptions.json  VG_100K/  VG_100K_2/
#   cc3m/ sbu/                tars of img2dataset; Prismer has cc12m/ as well
_base_ = ["../benchmarks/nocaps.py", "../_base_/tove_base.py"]

data_root = "data"
batch_size = 128  # in each process; 8 of them make 1,024
model = _base_.method

captions = dict(type="BenchmarkCaptions", prompt="A picture of")
coco = dict(
    benchmark="karpathy", ann_file="karpathy/dataset_coco.json", img_dir="karpathy", **captions
)
train_dataloader = dict(
    sampler=dict(type="ShardSampler"),
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(split="train", **coco),
            dict(
                benchmark="visual_genome",
                split="train",
                ann_file="visual_genome/region_descriptions.json",
                img_dir="visual_genome",
                **captions,
            ),
            dict(
                type="ImageTextShards",
                shards=["cc3m/*.tar", "sbu/*.tar"],
                prompt="A picture of",
                corrupt_limit=1000,
            ),
        ],
    ),
    **_base_.workers,
)
val_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(split="val", max_samples=1000, test_mode=True, **coco),
    **_base_.workers,
)
test_dataloader = dict(
    dataset=dict(ann_file="nocaps/nocaps_val_4500_captions.json", img_dir="nocaps")
)
unlabelled_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="UnlabelledImages", img_dir="karpathy/train2014"),
    **_base_.workers,
)
schedule = dict(
    steps=188000,  # 20 passes over .57 million captions, 5.4 of regions, 2.8 of CC3M, .86 of SBU
    lr=3e-4,
    weight_decay=0.05,
    warmup=2000,
    checkpoint_interval=2000,
    amp_dtype="bfloat16",
)
stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    dict(type="TrainStage", name="baseline", model=dict(type="MatchedBaseline")),
    dict(type="TrainStage", name="pretrain", row="tove"),
    dict(type="DetachStage", name="detach", source="pretrain"),
    dict(type="MergeStage", name="merge", source="pretrain"),
    dict(type="ExportStage", name="merged", source="merge", folder="export"),
    dict(type="ReportStage", name="report"),
]
