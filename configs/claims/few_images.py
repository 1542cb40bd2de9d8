# All arms of the claim `gain` with 125 images, the fewest of `data_efficiency`, and its steps and rate.
question = "With 125 images, do the experts raise the scores by more than as many parameters do?"
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "plain_clip_125"

slots = ["depth", "segmentation", "detection", "dino"]
truth = dict(type="SceneTruth", seed="{seed}", scenes=dict(train=125, test=600))
arms = dict(
    plain_clip=dict(type="PlainCLIP"),
    baseline=dict(type="MatchedBaseline"),
    tove={},
    uniform=dict(type="UniformAverage"),
    concat_channels=dict(type="ConcatChannels"),
    concat_tokens=dict(type="ConcatTokens"),
    prismer=dict(type="PrismerResampler", resampler=dict(num_queries=16)),
    oracle=dict(type="SingleExpert", expert="truth", experts=dict(truth=truth)),
    placebo=dict(experts={slot: dict(type="OtherImage", of=f"tiny_{slot}") for slot in slots}),
    **{slot: dict(type="SingleExpert", expert=slot) for slot in slots},
)
cells = {
    f"{arm}_125": dict(
        custom_imports=dict(imports=["tove.reproduce.stand_ins"]),
        scenes=dict(train=125, unlabelled=1, val=100, test=600),
        schedule=dict(steps=250, lr=1e-3),
        stages=[dict(type="TrainStage", name=f"{arm}_125", model=model)],
    )
    for arm, model in arms.items()
}

tests = [
    dict(
        says="ToVE is above as many parameters without experts, in statements",
        difference=("tove_125", "baseline_125"),
        metric="vsr/accuracy",
    ),
    dict(
        says="and in captions",
        difference=("tove_125", "baseline_125"),
        metric="caption/CIDEr",
    ),
]
beside = [
    dict(
        says=f"ToVE is above {arm}",
        difference=("tove_125", f"{arm}_125"),
        metric="vsr/accuracy",
    )
    for arm in arms
    if arm not in ("tove", "baseline")
]
quick = dict(
    seeds=1,
    cells=["baseline_125", "tove_125", "uniform_125"],
    settings=dict(schedule=dict(steps=200), scenes=dict(val=100, test=200)),
)
