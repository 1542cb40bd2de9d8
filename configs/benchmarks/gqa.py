# GQA's balanced test-dev split, in free words; val_all has consistency, and validity and plausibility with val_all_choices.json.
#
# data/gqa/
#   testdev_balanced_questions.json
#   images/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/gqa"
model = dict(generation=dict(min_new_tokens=1, max_new_tokens=10))
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="gqa",
        split="testdev_balanced",
        prompt="Question: {question} Answer:",
        test_mode=True,
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="gqa")]
table_metrics = ["gqa/accuracy"]
