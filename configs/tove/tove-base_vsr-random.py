# ToVE base, fine-tuned on VSR's random split; in the work folder of tove-base_pretrain.py. How the paper
# does it is not known: 20 passes over the statements, at the rate of Prismer's fine-tunings.
_base_ = ["../benchmarks/vsr_random.py", "../_base_/tove_base.py"]

batch_size = 16  # in each process; 8 of them make 128
model = _base_.method
statements = dict(type="VSRStatements", img_dir="images")
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(ann_file="splits/random/train.jsonl", **statements),
    **_base_.workers,
)
val_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(ann_file="splits/random/dev.jsonl", test_mode=True, **statements),
    **_base_.workers,
)
schedule = dict(
    steps=1200,
    lr=5e-5,
    weight_decay=0.05,
    warmup=100,
    checkpoint_interval=200,
    val_interval=200,
    amp_dtype="bfloat16",
)
stages = [dict(type="TrainStage", name="vsr_random", source="pretrain")]
