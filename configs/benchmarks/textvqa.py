# TextVQA's validation split, in free words, without words read by others.
#
# data/textvqa/
#   TextVQA_0.5.1_val.json
#   train_images/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/textvqa"
model = dict(generation=dict(min_new_tokens=1, max_new_tokens=10))
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="textvqa",
        split="val",
        prompt="Question: {question} Answer:",
        test_mode=True,
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="textvqa")]
table_metrics = ["textvqa/accuracy"]
