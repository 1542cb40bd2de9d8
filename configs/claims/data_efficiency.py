# Score against distinct training images. All arms train for as many steps at the rates chosen on the
# validation split of the demo, where the baseline is at its best as well.
question = "Does ToVE need less data than plain CLIP for the same score?"
paper = "ToVE reaches the same quality with two orders of magnitude less vision-language data."
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]

sizes = [125, 500, 2000, 8000, 32000]
models = dict(plain_clip=dict(type="PlainCLIP"), baseline=dict(type="MatchedBaseline"), tove={})
settings = dict(schedule=dict(steps=1000))
cells = {
    f"{name}_{size}": dict(
        scenes=dict(train=size, unlabelled=1, val=100, test=600),
        stages=[dict(type="TrainStage", name=f"{name}_{size}", model=model)],
    )
    for size in sizes
    for name, model in models.items()
}

tests = [
    dict(
        says="for plain CLIP's best score in statements ToVE needs fewer images, by this factor",
        factor=("tove", "plain_clip"),
        metric="vsr/accuracy",
        above=1.0,
    ),
]
beside = [
    dict(
        says="the factor over as many parameters without experts",
        factor=("tove", "baseline"),
        metric="vsr/accuracy",
        above=1.0,
    ),
    dict(
        says="it is two orders of magnitude",
        factor=("tove", "plain_clip"),
        metric="vsr/accuracy",
        above=100.0,
    ),
    dict(
        says="the factor in captions",
        factor=("tove", "plain_clip"),
        metric="caption/CIDEr",
        above=1.0,
    ),
]
figure = dict(
    x="training_images",
    lines={name: [f"{name}_{size}" for size in sizes] for name in models},
)
quick = dict(
    seeds=1,
    cells=[f"{name}_{size}" for size in (125, 500, 2000) for name in ("plain_clip", "tove")],
    settings=dict(schedule=dict(steps=300), scenes=dict(val=100, test=200)),
)
