# MoVE-KD v1.1, first stage: v1.0 with SAM-L as one more teacher.
_base_ = ["./move_kd-v1.0-llava-v1.5-7b_pretrain.py"]

model = dict(experts=dict(sam=dict(type="sam_vit_l", dtype="bfloat16")))
