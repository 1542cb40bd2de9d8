# ToVE base, fine-tuned on VQAv2; in the work folder of tove-base_pretrain.py. Ten passes in batches of 512, a
# rate of 5e-5, the 3,128 most frequent answers ranked: Prismer's, which has images of 480 pixels here.
# OK-VQA, TextVQA and VizWiz go on from it; the other benchmarks of questions are asked of its checkpoint, by
# configs/benchmarks.
_base_ = ["../benchmarks/vqav2.py", "../_base_/tove_base.py"]

batch_size = 64  # in each process; 8 of them make 512
model = _base_.method
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="vqav2",
        split="train",
        prompt="Question: {question} Answer:",
    ),
    **_base_.workers,
)
test_dataloader = dict(dataset=dict(answers="train", max_answers=3128))
schedule = dict(
    steps=8670,
    lr=5e-5,
    weight_decay=0.05,
    warmup=500,
    checkpoint_interval=1000,
    amp_dtype="bfloat16",
)
stages = [dict(type="TrainStage", name="vqav2", source="pretrain")]
