# MoVE-KD v1.0 in LLaVA-NeXT, first stage. Adapters that take any number of tokens: tiles of the second stage.
_base_ = ["../llava/llava-next-vicuna-7b_pretrain.py", "../_base_/move_kd_llava.py"]

model = dict(switches=dict(any_resolution="views", adapter="resample"), **_base_.method)
stages = [dict(type="TrainStage", name="pretrain")]
