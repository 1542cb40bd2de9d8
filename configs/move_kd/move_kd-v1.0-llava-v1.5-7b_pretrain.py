# MoVE-KD v1.0 (arXiv 2501.01709), first stage: projector, MoLE, routers and adapters at one rate.
_base_ = ["../llava/llava-v1.5-7b_pretrain.py", "../_base_/move_kd_llava.py"]

model = _base_.method
stages = [dict(type="TrainStage", name="pretrain")]
