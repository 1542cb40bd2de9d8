# The questions of ScienceQA's test split that have an image; its choices are ranked.
#
# data/scienceqa/
#   problems.json pid_splits.json
#   images/test/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/scienceqa"
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="scienceqa",
        split="test",
        prompt="{hint} Question: {question} Options: {choices}. Answer:",
        test_mode=True,
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="scienceqa")]
table_metrics = ["scienceqa/accuracy"]
