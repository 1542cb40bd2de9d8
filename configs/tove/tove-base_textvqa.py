# ToVE base, fine-tuned on TextVQA; in the work folder of tove-base_vqav2.py, from whose model it goes on. Ten
# passes in batches of 256; answered in free words, for most answers are words of the image. Ours: Prismer has
# none for it, and nobody has tried it.
_base_ = ["../benchmarks/textvqa.py", "../_base_/tove_base.py"]

batch_size = 32  # in each process; 8 of them make 256
model = _base_.method
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="textvqa",
        split="train",
        prompt="Question: {question} Answer:",
    ),
    **_base_.workers,
)
schedule = dict(
    steps=1350,
    lr=5e-5,
    weight_decay=0.05,
    warmup=100,
    checkpoint_interval=1000,
    amp_dtype="bfloat16",
)
stages = [dict(type="TrainStage", name="textvqa", source="vqav2")]
