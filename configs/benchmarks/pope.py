# POPE's three splits over COCO, yes or no, whichever is likelier.
#
# data/pope/
#   coco_pope_random.json coco_pope_popular.json coco_pope_adversarial.json
#   val2014/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/pope"
questions = dict(
    type="BenchmarkQuestions",
    benchmark="pope",
    prompt="Question: {question} Answer:",
    test_mode=True,
)
test_dataloader = dict(
    dataset=dict(
        type="ConcatDataset",
        datasets=[
            dict(split="random", **questions),
            dict(split="popular", **questions),
            dict(split="adversarial", **questions),
        ],
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="pope")]
table_metrics = ["pope/accuracy", "pope/F1"]
