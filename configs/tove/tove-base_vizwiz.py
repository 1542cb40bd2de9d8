# ToVE base, fine-tuned on VizWiz; in the work folder of tove-base_vqav2.py, from whose model it goes on. Ten
# passes in batches of 256, the 3,000 most frequent answers ranked, "unanswerable" among them. Ours: Prismer has
# none for it, and nobody has tried it.
_base_ = ["../benchmarks/vizwiz.py", "../_base_/tove_base.py"]

batch_size = 32  # in each process; 8 of them make 256
model = _base_.method
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="vizwiz",
        split="train",
        prompt="Question: {question} Answer:",
    ),
    **_base_.workers,
)
test_dataloader = dict(dataset=dict(answers="train", max_answers=3000))
schedule = dict(
    steps=800,
    lr=5e-5,
    weight_decay=0.05,
    warmup=80,
    checkpoint_interval=1000,
    amp_dtype="bfloat16",
)
stages = [dict(type="TrainStage", name="vizwiz", source="vqav2")]
