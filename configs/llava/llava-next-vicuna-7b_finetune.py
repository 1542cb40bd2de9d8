# LLaVA-NeXT's second stage: any-resolution views, up to 2,928 tokens an image; CLIP trains along at a tenth of
# the rate. On 32 processes, in the first stage's work folder.
#
# playground/data/llava_next_raw_format/          of lmms-lab/LLaVA-NeXT-Data, its archives unpacked in place
#   llava_next_raw_format_processed.json  coco/train2017/  ocr_vqa/  ...
_base_ = ["./llava-v1.5-7b_finetune.py"]

batch_size = 4  # in each process; 32 of them make 128
model = dict(language=dict(newline=True, max_tokens=4096))
next_data = dict(
    ann_file="llava_next_raw_format/llava_next_raw_format_processed.json",
    img_dir="llava_next_raw_format",
    view="anyres",
)
train_dataloader = dict(dataset=next_data)
test_dataloader = dict(dataset=next_data)
schedule = dict(steps=5938, warmup=178)  # the 760,000 samples that its authors tell of, once
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={"encoder.model": dict(lr_mult=0.1)}))
stages = [
    dict(
        type="TrainStage",
        name="finetune",
        source="pretrain",
        trains=["projector", "language", "encoder"],
    ),
    dict(type="ExportStage", name="export", source="finetune", role="plain"),
]
