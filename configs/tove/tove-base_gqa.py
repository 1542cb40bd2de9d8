# ToVE base, fine-tuned on GQA's balanced questions; in the work folder of tove-base_pretrain.py. VQAv2's recipe,
# five passes in batches of 512, all answers of the training split ranked. Ours: Prismer has none for it, and
# nobody has tried it.
_base_ = ["../benchmarks/gqa.py", "../_base_/tove_base.py"]

batch_size = 64  # in each process; 8 of them make 512
model = _base_.method
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="gqa",
        split="train_balanced",
        prompt="Question: {question} Answer:",
    ),
    **_base_.workers,
)
test_dataloader = dict(dataset=dict(answers="train_balanced"))
schedule = dict(
    steps=9210,
    lr=5e-5,
    weight_decay=0.05,
    warmup=500,
    checkpoint_interval=1000,
    amp_dtype="bfloat16",
)
stages = [dict(type="TrainStage", name="gqa", source="pretrain")]
