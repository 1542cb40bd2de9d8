# The merged encoder of tove-base_pretrain.py, without experts, fine-tuned as tove-base_vsr-random.py fine-tunes
# ToVE base; in the same work folder, whose export is named here.
_base_ = ["./tove-base_vsr-random.py"]

stages = [
    dict(
        type="TrainStage",
        name="vsr_random_lite",
        source="merged",
        model=dict(type="PlainCLIP", encoder=dict(pretrained="work_dirs/tove-base/export")),
    )
]
