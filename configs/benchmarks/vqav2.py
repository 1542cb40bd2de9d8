# VQAv2's validation split, in free words. For the server: split test or test-dev, and
# --cfg-options test_evaluator.0.submission=FILE
#
# data/vqav2/
#   v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json
#   val2014/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/vqav2"
model = dict(generation=dict(min_new_tokens=1, max_new_tokens=10))
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkQuestions",
        benchmark="vqav2",
        split="val",
        prompt="Question: {question} Answer:",
        test_mode=True,
    )
)
test_evaluator = [dict(type="BenchmarkScore", benchmark="vqav2")]
table_metrics = ["vqav2/accuracy"]
