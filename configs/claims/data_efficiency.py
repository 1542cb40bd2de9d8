# Score against distinct training images that were seen, four sizes apart by a factor of 6.3. Steps grow
# with the size as the validation split asked for, the same for all arms: see the claim `data_search`.
# What other arms do with the fewest of them: the claim `few_images`.
question = "Does ToVE need less data than plain CLIP for the same score?"
paper = "ToVE reaches the same quality with two orders of magnitude less vision-language data."
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "plain_clip_125"

steps = {125: 250, 800: 1000, 5000: 2000, 32000: 4000}
arms = dict(plain_clip=dict(type="PlainCLIP"), baseline=dict(type="MatchedBaseline"), tove={})


def cell(arm, size):
    """A run on so many images; what all runs of a size share is the scenes."""
    stage = dict(type="TrainStage", name=f"{arm}_{size}", model=arms[arm])
    return dict(
        custom_imports=dict(imports=["tove.reproduce.stand_ins"]),
        scenes=dict(train=size, unlabelled=1, val=100, test=600),
        schedule=dict(steps=steps[size], lr=1e-3),
        stages=[stage],
    )


cells = {f"{arm}_{size}": cell(arm, size) for size in steps for arm in arms}

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
    lines={arm: [f"{arm}_{size}" for size in steps] for arm in arms},
)
quick = dict(
    seeds=1,
    cells=["plain_clip_125", "tove_125", "plain_clip_800", "tove_800"],
    settings=dict(schedule=dict(steps=200), scenes=dict(val=100, test=200)),
)
