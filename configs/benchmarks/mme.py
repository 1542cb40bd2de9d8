# MME's fourteen subtasks, yes or no, whichever is likelier.
#
# data/mme/
#   existence/ count/ ... code_reasoning/   the release's folders, texts and images in each
_base_ = ["../_base_/benchmark.py"]

data_root = "data/mme"
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="mme",
        split="test",
        test_mode=True,
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="mme")]
table_metrics = ["mme/perception", "mme/cognition"]
