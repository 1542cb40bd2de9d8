# VizWiz's validation split, in free words. For the server: split test and a submission.
#
# data/vizwiz/
#   Annotations/val.json
#   val/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/vizwiz"
model = dict(generation=dict(min_new_tokens=1, max_new_tokens=10))
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="vizwiz",
        split="val",
        prompt="Question: {question} Answer:",
        test_mode=True,
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="vizwiz")]
table_metrics = ["vizwiz/accuracy"]
