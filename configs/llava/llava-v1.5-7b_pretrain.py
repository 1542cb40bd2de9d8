# LLaVA-1.5's first stage (arXiv 2310.03744): the projector learns to caption; CLIP and Vicuna are frozen.
# On 8 processes: torchrun --nproc_per_node=8 tools/train.py THIS --launcher pytorch --amp --work-dir work_dirs/llava
# The second stage, llava-v1.5-7b_finetune.py, goes on in the same work folder.
#
# playground/data/LLaVA-Pretrain/                 as LLaVA's release lays it out
#   blip_laion_cc_sbu_558k.json  images/00000/ ...
_base_ = ["../_base_/runtime.py"]

# --- settings -------------------------------------------------------------------------------------
seed = 0
data_root = "playground/data"
image_size = 336
batch_size = 32  # in each process; 8 of them make 256
workers = dict(num_workers=4, persistent_workers=True)

# --- model ----------------------------------------------------------------------------------------
model = dict(
    type="PlainCLIP",
    encoder=dict(type="TransformersCLIP", pretrained="openai/clip-vit-large-patch14-336", layer=-2),
    language=dict(
        type="ChatLanguageModel",
        pretrained="lmsys/vicuna-7b-v1.5",
        chat="plain",
        max_tokens=2048,
        checkpointing=True,
    ),
    generation=dict(max_new_tokens=64),
)

# --- data -----------------------------------------------------------------------------------------
captions = dict(
    type="LlavaConversations",
    ann_file="LLaVA-Pretrain/blip_laion_cc_sbu_558k.json",
    img_dir="LLaVA-Pretrain/images",
    view="crop",
)
train_dataloader = dict(
    sampler=dict(type="InfiniteSampler", shuffle=True), dataset=captions, **workers
)
# A look at how it answers, on captions it was trained on; benchmarks are run on the exported folder.
test_dataloader = dict(
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(max_samples=64, test_mode=True, **captions),
    **workers,
)
test_evaluator = [dict(type="ConversationAccuracy", match="exact")]
table_metrics = ["chat/accuracy"]

# --- schedule -------------------------------------------------------------------------------------
schedule = dict(
    steps=2180,
    lr=1e-3,
    warmup=65,
    weight_decay=0.0,
    checkpoint_interval=500,
    amp_dtype="bfloat16",
)

# --- stages ---------------------------------------------------------------------------------------
stages = [dict(type="TrainStage", name="pretrain", trains="projector")]
