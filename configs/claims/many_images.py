# All arms of the claims `gain` and `few_images` with 5,000 images, and the steps and rate that
# `data_efficiency` has for so many; those of `few_images` stand beside them.
question = (
    "With 5,000 images, do the experts still raise the scores by more than as many parameters do?"
)
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "plain_clip_5000"

slots = ["depth", "segmentation", "detection", "dino"]
steps = {125: 250, 5000: 2000}
arms = dict(
    plain_clip=dict(type="PlainCLIP"),
    baseline=dict(type="MatchedBaseline"),
    tove={},
    uniform=dict(type="UniformAverage"),
    concat_channels=dict(type="ConcatChannels"),
    concat_tokens=dict(type="ConcatTokens"),
    prismer=dict(type="PrismerResampler", resampler=dict(num_queries=16)),
    placebo=dict(experts={slot: dict(type="OtherImage", of=f"tiny_{slot}") for slot in slots}),
    **{slot: dict(type="SingleExpert", expert=slot) for slot in slots},
)


def model_of(arm, size):
    """The truth is told of the scenes that are there; else the size does not matter."""
    if arm != "oracle":
        return arms[arm]
    truth = dict(type="SceneTruth", seed="{seed}", scenes=dict(train=size, test=600))
    return dict(type="SingleExpert", expert="truth", experts=dict(truth=truth))


cells = {
    f"{arm}_{size}": dict(
        custom_imports=dict(imports=["tove.reproduce.stand_ins"]),
        scenes=dict(train=size, unlabelled=1, val=100, test=600),
        schedule=dict(steps=steps[size], lr=1e-3),
        stages=[dict(type="TrainStage", name=f"{arm}_{size}", model=model_of(arm, size))],
    )
    for arm in [*arms, "oracle"]
    for size in steps
}

tests = [
    dict(
        says="ToVE is above as many parameters without experts, in statements",
        difference=("tove_5000", "baseline_5000"),
        metric="vsr/accuracy",
    ),
    dict(
        says="and in captions",
        difference=("tove_5000", "baseline_5000"),
        metric="caption/CIDEr",
    ),
]
beside = [
    dict(
        says=f"ToVE is above {arm}",
        difference=("tove_5000", f"{arm}_5000"),
        metric="vsr/accuracy",
    )
    for arm in [*arms, "oracle"]
    if arm not in ("tove", "baseline")
]
figure = dict(
    x="training_images",
    lines={arm: [f"{arm}_{size}" for size in steps] for arm in [*arms, "oracle"]},
)
quick = dict(
    seeds=1,
    cells=["baseline_5000", "tove_5000"],
    settings=dict(schedule=dict(steps=200), scenes=dict(val=100, test=200)),
)
