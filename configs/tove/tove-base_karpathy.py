# ToVE base, fine-tuned on COCO's captions, Karpathy's split; in the work folder of tove-base_pretrain.py.
# Three passes in batches of 256, a rate of 5e-5: Prismer's, which has images of 480 pixels here.
_base_ = ["../benchmarks/karpathy.py", "../_base_/tove_base.py"]

batch_size = 32  # in each process; 8 of them make 256
model = _base_.method
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BenchmarkCaptions", benchmark="karpathy", split="train", prompt="A picture of"
    ),
    **_base_.workers,
)
schedule = dict(
    steps=6640,
    lr=5e-5,
    weight_decay=0.05,
    warmup=500,
    checkpoint_interval=1000,
    amp_dtype="bfloat16",
)
stages = [dict(type="TrainStage", name="karpathy", source="pretrain")]
