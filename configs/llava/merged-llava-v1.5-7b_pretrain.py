# LLaVA-1.5 over an encoder that experts have taught: the folder of an ExportStage, here the one that
# configs/tove/tove_clip-b16_coco-vsr.py writes. Its export.json tells layer and image size.
_base_ = ["./llava-v1.5-7b_pretrain.py"]

image_size = 224
model = dict(encoder=dict(pretrained="work_dirs/tove_clip-b16_coco-vsr/export", layer=-1))
