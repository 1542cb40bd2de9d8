# NoCaps' validation split, CIDEr by domain. For the server: split test and a submission.
#
# data/nocaps/
#   nocaps_val_4500_captions.json
#   val/   the images, named by file_name
_base_ = ["../_base_/benchmark.py"]

data_root = "data/nocaps"
model = dict(generation=dict(num_beams=3, min_new_tokens=8, max_new_tokens=20))
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkCaptions",
        benchmark="nocaps",
        split="val",
        prompt="A picture of",
        test_mode=True,
    )
)
test_evaluator = [dict(type="CaptionScore", per_relation=True)]
table_metrics = ["caption/CIDEr", "caption/BLEU_4"]
