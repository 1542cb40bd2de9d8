# OK-VQA's validation split, its test set, in free words.
#
# data/okvqa/
#   OpenEnded_mscoco_val2014_questions.json mscoco_val2014_annotations.json
#   val2014/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/okvqa"
model = dict(generation=dict(min_new_tokens=1, max_new_tokens=10))
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="okvqa",
        split="val",
        prompt="Question: {question} Answer:",
        test_mode=True,
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="okvqa")]
table_metrics = ["okvqa/accuracy"]
