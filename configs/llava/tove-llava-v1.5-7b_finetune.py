# ToVE in LLaVA-1.5 (ToVE_Vicuna), second stage: Vicuna learns along. In the first stage's work folder.
_base_ = ["./llava-v1.5-7b_finetune.py", "../_base_/tove_llava.py"]

model = _base_.method
# The gate is looked at there, answers are not.
val_dataloader = _base_.test_dataloader
stages = [
    dict(
        type="TrainStage",
        name="finetune",
        source="pretrain",
        row="tove",
        trains=[*_base_.fusing, "language"],
    ),
    dict(type="DetachStage", name="detach", source="finetune", rule="gate"),
]
