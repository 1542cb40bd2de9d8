# MoVE-KD v1.0 in LLaVA-NeXT, second stage: each tile is an image to the teachers; all but them at one rate.
_base_ = ["../llava/llava-next-vicuna-7b_finetune.py", "../_base_/move_kd_llava.py"]

model = dict(switches=dict(any_resolution="views", adapter="resample"), **_base_.method)
optim_wrapper = dict(_delete_=True)
stages = [
    dict(
        type="TrainStage",
        name="finetune",
        source="pretrain",
        trains=["projector", "adapters", "language", "encoder"],
    ),
    dict(type="ExportStage", name="export", source="finetune"),
]
