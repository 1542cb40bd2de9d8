# MoVE-KD v1.0, second stage: all but the teachers at one rate.
_base_ = ["../llava/llava-v1.5-7b_finetune.py", "../_base_/move_kd_llava.py"]

model = _base_.method
stages = [
    dict(
        type="TrainStage",
        name="finetune",
        source="pretrain",
        trains=["projector", "adapters", "language", "encoder"],
    ),
    # With its MoLE; a MergeStage folds that into a stock CLIP for a Llava folder.
    dict(type="ExportStage", name="export", source="finetune"),
]
