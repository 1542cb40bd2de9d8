# LLaVA-1.5's second stage: projector and Vicuna learn to follow instructions; CLIP is frozen.
# In the first stage's work folder, whose projector it goes on with:
# torchrun --nproc_per_node=8 tools/train.py THIS --launcher pytorch --amp --work-dir work_dirs/llava
#
# playground/data/                                as LLaVA's release lays it out
#   llava_v1_5_mix665k.json
#   coco/train2017/  gqa/images/  ocr_vqa/images/  textvqa/train_images/  vg/VG_100K/  vg/VG_100K_2/
_base_ = ["./llava-v1.5-7b_pretrain.py"]

batch_size = 16  # in each process; 8 of them make 128
model = dict(language=dict(chat="v1"))
instructions = dict(
    type="LlavaConversations", ann_file="llava_v1_5_mix665k.json", img_dir="", view="pad"
)
train_dataloader = dict(
    sampler=dict(_delete_=True, type="ModalityLengthSampler"),
    dataset=dict(_delete_=True, **instructions),
)
test_dataloader = dict(dataset=dict(_delete_=True, max_samples=64, test_mode=True, **instructions))
schedule = dict(steps=5198, lr=2e-5, warmup=156)
stages = [
    dict(type="TrainStage", name="finetune", source="pretrain", trains=["projector", "language"]),
    dict(type="ExportStage", name="export", source="finetune", role="plain"),
]
