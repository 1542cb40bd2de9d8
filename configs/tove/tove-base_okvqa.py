# ToVE base, fine-tuned on OK-VQA; in the work folder of tove-base_vqav2.py, from whose model it goes on, for
# 9,009 questions teach few answers. Ten passes in batches of 128, all answers of the training split ranked. Ours:
# Prismer has none for it, and nobody has tried it.
_base_ = ["../benchmarks/okvqa.py", "../_base_/tove_base.py"]

batch_size = 16  # in each process; 8 of them make 128
model = _base_.method
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="okvqa",
        split="train",
        prompt="Question: {question} Answer:",
    ),
    **_base_.workers,
)
test_dataloader = dict(dataset=dict(answers="train"))
schedule = dict(
    steps=704,
    lr=5e-5,
    weight_decay=0.05,
    warmup=50,
    checkpoint_interval=1000,
    amp_dtype="bfloat16",
)
stages = [dict(type="TrainStage", name="okvqa", source="vqav2")]
