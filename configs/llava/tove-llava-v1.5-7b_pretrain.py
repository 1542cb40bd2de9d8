# ToVE in LLaVA-1.5 (ToVE_Vicuna), first stage: what fuses CLIP's tokens with four experts' learns to caption
# beside the projector; t_fuse stands where <image> stands, as many tokens as CLIP alone has.
_base_ = ["./llava-v1.5-7b_pretrain.py", "../_base_/tove_llava.py"]

model = _base_.method
stages = [dict(type="TrainStage", name="pretrain", row="tove", trains=_base_.fusing)]
