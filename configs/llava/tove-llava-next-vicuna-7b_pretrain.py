# ToVE in LLaVA-NeXT, first stage.
_base_ = ["./llava-next-vicuna-7b_pretrain.py", "../_base_/tove_llava.py"]

model = _base_.method
stages = [dict(type="TrainStage", name="pretrain", row="tove", trains=_base_.fusing)]
