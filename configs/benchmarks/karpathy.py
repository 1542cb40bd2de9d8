# COCO captions, Karpathy's test split; METEOR and SPICE with --cfg-options test_evaluator.0.java=[METEOR,SPICE]
#
# data/karpathy/
#   dataset_coco.json
#   train2014/ val2014/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/karpathy"
model = dict(generation=dict(num_beams=3, min_new_tokens=8, max_new_tokens=20))
test_dataloader = dict(
    dataset=dict(
        type="BenchmarkCaptions",
        benchmark="karpathy",
        split="test",
        prompt="A picture of",
        test_mode=True,
    )
)
test_evaluator = [dict(type="CaptionScore")]
table_metrics = ["caption/CIDEr", "caption/BLEU_4"]
