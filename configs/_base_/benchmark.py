# What the configs of benchmarks share. The model, its image size and batch size are those of the checkpoint.
default_scope = "tove"
test_dataloader = dict(
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
)
