# VSR's random split, true or false, whichever is likelier.
#
# data/vsr/   the repository's own folder `data`
#   splits/random/test.jsonl
#   images/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/vsr"
test_dataloader = dict(
    dataset=dict(
        type="VSRStatements", ann_file="splits/random/test.jsonl", img_dir="images", test_mode=True
    )
)
test_evaluator = [dict(type="StatementAccuracy")]
table_metrics = ["vsr/accuracy"]
