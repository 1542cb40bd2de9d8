# CV-Bench, both parts; its choices are ranked.
#
# data/cvbench/
#   test_2d.jsonl test_3d.jsonl
#   img/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/cvbench"
questions = dict(
    type="BenchmarkQuestions",
    benchmark="cvbench",
    prompt="Question: {question} Options: {choices}. Answer:",
    test_mode=True,
)
test_dataloader = dict(
    dataset=dict(
        type="ConcatDataset",
        datasets=[dict(split="2d", **questions), dict(split="3d", **questions)],
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="cvbench")]
table_metrics = ["cvbench/overall", "cvbench/2D", "cvbench/3D"]
