# Score against distinct training images that were seen, four sizes apart by a factor of 6.3. The 800 are
# those of the claim `gain`, whose cells these are. Steps grow with the size as the validation split
# asked for, the same for all arms: see the claim `data_search`.
_base_ = ["./gain.py"]

question = "Does ToVE need less data than plain CLIP for the same score?"
paper = "ToVE reaches the same quality with two orders of magnitude less vision-language data."
over = "plain_clip"

steps = {125: 250, 5000: 1000, 32000: 2000}  # and 500 for 800
slots = ["depth", "segmentation", "detection", "dino"]
main = dict(plain_clip=dict(type="PlainCLIP"), baseline=dict(type="MatchedBaseline"), tove={})
others = dict(
    uniform=dict(type="UniformAverage"),
    concat_channels=dict(type="ConcatChannels"),
    prismer=dict(type="PrismerResampler", resampler=dict(num_queries=16)),
    oracle=dict(
        type="SingleExpert",
        expert="truth",
        experts=dict(
            truth=dict(type="SceneTruth", seed="{seed}", scenes=dict(train=125, test=600))
        ),
    ),
    placebo=dict(experts={slot: dict(type="OtherImage", of=f"tiny_{slot}") for slot in slots}),
    **{slot: dict(type="SingleExpert", expert=slot) for slot in slots},
)


def cell(arm, size, model):
    """A run on so many images; what all runs of a size share is the scenes."""
    stage = dict(type="TrainStage", name=f"{arm}_{size}", model=model)
    return dict(
        custom_imports=dict(imports=["tove.reproduce.stand_ins"]),
        scenes=dict(train=size, unlabelled=1, val=100, test=600),
        schedule=dict(steps=steps[size]),
        stages=[stage],
    )


cells = {
    **{f"{arm}_{size}": cell(arm, size, model) for size in steps for arm, model in main.items()},
    **{f"{arm}_125": cell(arm, 125, model) for arm, model in others.items()},
}
lines = {arm: [f"{arm}_125", arm, f"{arm}_5000", f"{arm}_32000"] for arm in main}
few = {arm: [f"{arm}_125", arm] for arm in others}

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
    *[
        dict(
            says=f"with 125 images {arm} is above plain CLIP with as many",
            difference=(f"{arm}_125", "plain_clip_125"),
            metric="vsr/accuracy",
        )
        for arm in ("tove", "baseline", *others)
    ],
]
figure = dict(x="training_images", lines={**lines, **few})
quick = dict(
    _delete_=True,
    seeds=1,
    cells=["plain_clip_125", "tove_125", "plain_clip", "tove"],
    settings=dict(schedule=dict(steps=200), scenes=dict(val=100, test=200)),
)
