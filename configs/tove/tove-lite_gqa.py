# As tove-base_gqa.py, of the merged encoder without experts; in the work folder of tove-base_pretrain.py, whose
# export is named here.
_base_ = ["./tove-base_gqa.py"]

stages = [
    dict(
        type="TrainStage",
        name="gqa_lite",
        source="merged",
        model=dict(type="PlainCLIP", encoder=dict(pretrained="work_dirs/tove-base/export")),
    )
]
