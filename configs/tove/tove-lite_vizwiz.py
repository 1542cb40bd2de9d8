# As tove-base_vizwiz.py, of the merged encoder without experts; in the work folder of tove-lite_vqav2.py, whose
# export is named here.
_base_ = ["./tove-base_vizwiz.py"]

stages = [
    dict(
        type="TrainStage",
        name="vizwiz_lite",
        source="vqav2_lite",
        model=dict(type="PlainCLIP", encoder=dict(pretrained="work_dirs/tove-base/export")),
    )
]
