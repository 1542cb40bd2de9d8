# As tove-base_vsr-random.py, on VSR's zeroshot split, which has fewer statements: 20 passes are fewer steps.
_base_ = ["./tove-base_vsr-random.py"]

train_dataloader = dict(dataset=dict(ann_file="splits/zeroshot/train.jsonl"))
val_dataloader = dict(dataset=dict(ann_file="splits/zeroshot/dev.jsonl"))
test_dataloader = dict(dataset=dict(ann_file="splits/zeroshot/test.jsonl"))
schedule = dict(steps=545)
stages = [dict(type="TrainStage", name="vsr_zeroshot", source="pretrain")]
