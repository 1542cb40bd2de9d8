# The merged encoder of tove-base_pretrain.py, without experts, fine-tuned as tove-base_vsr-zeroshot.py fine-tunes
# ToVE base; in the same work folder, whose export is named here.
_base_ = ["./tove-base_vsr-zeroshot.py"]

stages = [
    dict(
        type="TrainStage",
        name="vsr_zeroshot_lite",
        source="merged",
        model=dict(type="PlainCLIP", encoder=dict(pretrained="work_dirs/tove-base/export")),
    )
]
