# VSR's zero-shot split, true or false, whichever is likelier.
#
# data/vsr/   the repository's own folder `data`
#   splits/zeroshot/test.jsonl
#   images/
_base_ = ["../_base_/benchmark.py"]

data_root = "data/vsr"
test_dataloader = dict(
    dataset=dict(
        type="VSRStatements",
        ann_file="splits/zeroshot/test.jsonl",
        img_dir="images",
        test_mode=True,
    )
)
test_evaluator = [dict(type="StatementAccuracy")]
table_metrics = ["vsr/accuracy"]
