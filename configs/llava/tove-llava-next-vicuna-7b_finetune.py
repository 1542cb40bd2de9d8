# ToVE in LLaVA-NeXT, second stage: every tile is an image to the experts too; Vicuna and CLIP learn along.
_base_ = ["./llava-next-vicuna-7b_finetune.py", "../_base_/tove_llava.py"]

model = _base_.method
# The gate is looked at there, answers are not.
val_dataloader = _base_.test_dataloader
stages = [
    dict(
        type="TrainStage",
        name="finetune",
        source="pretrain",
        row="tove",
        trains=[*_base_.fusing, "language", "encoder"],
    ),
    dict(type="DetachStage", name="detach", source="finetune", rule="gate"),
]
