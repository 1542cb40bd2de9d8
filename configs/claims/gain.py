# Plain CLIP, as many parameters without experts, each expert alone, and the ways of using all of them.
question = "Do the experts raise the scores of a frozen CLIP by more than as many parameters do?"
paper = "ToVE is above a CLIP without experts on captions and above all on spatial statements."
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "baseline"

cells = dict(
    plain_clip=dict(
        stages=[dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP"))]
    ),
    baseline=dict(
        stages=[dict(type="TrainStage", name="baseline", model=dict(type="MatchedBaseline"))]
    ),
    tove=dict(stages=[dict(type="TrainStage", name="transfer", row="tove")]),
    uniform=dict(
        stages=[dict(type="TrainStage", name="uniform", model=dict(type="UniformAverage"))]
    ),
    concat_channels=dict(
        stages=[dict(type="TrainStage", name="concat_channels", model=dict(type="ConcatChannels"))]
    ),
    concat_tokens=dict(
        stages=[dict(type="TrainStage", name="concat_tokens", model=dict(type="ConcatTokens"))]
    ),
    prismer=dict(
        stages=[
            dict(
                type="TrainStage",
                name="prismer",
                model=dict(type="PrismerResampler", resampler=dict(num_queries=16)),
            )
        ]
    ),
    **{
        slot: dict(
            stages=[
                dict(type="TrainStage", name=slot, model=dict(type="SingleExpert", expert=slot))
            ]
        )
        for slot in ("depth", "segmentation", "detection", "dino")
    },
    # The ceiling: true depth, classes, boxes and sizes. The floor: each expert's tokens of another image.
    oracle=dict(
        custom_imports=dict(imports=["tove.reproduce.stand_ins"]),
        model=dict(
            experts=dict(
                truth=dict(type="SceneTruth", seed="{seed}", scenes=dict(train=800, test=600))
            )
        ),
        stages=[
            dict(
                type="TrainStage",
                name="oracle",
                model=dict(type="SingleExpert", expert="truth"),
            )
        ],
    ),
    placebo=dict(
        custom_imports=dict(imports=["tove.reproduce.stand_ins"]),
        model=dict(
            experts={
                slot: dict(type="OtherImage", of=f"tiny_{slot}")
                for slot in ("depth", "segmentation", "detection", "dino")
            }
        ),
        stages=[dict(type="TrainStage", name="placebo")],
    ),
)

tests = [
    dict(
        says="ToVE is above as many parameters without experts, in statements",
        difference=("tove", "baseline"),
        metric="vsr/accuracy",
    ),
    dict(
        says="and in captions",
        difference=("tove", "baseline"),
        metric="caption/CIDEr",
    ),
]
beside = [
    dict(
        says="as many parameters without experts are above plain CLIP",
        difference=("baseline", "plain_clip"),
        metric="vsr/accuracy",
    ),
    dict(
        says="tokens of another image are above plain CLIP",
        difference=("placebo", "plain_clip"),
        metric="vsr/accuracy",
    ),
    dict(
        says="true depth, classes and boxes are above ToVE",
        difference=("oracle", "tove"),
        metric="vsr/accuracy",
    ),
    dict(
        says="ToVE is above plain CLIP",
        difference=("tove", "plain_clip"),
        metric="vsr/accuracy",
    ),
    *[
        dict(
            says=f"ToVE is above {arm}",
            difference=("tove", arm),
            metric="vsr/accuracy",
        )
        for arm in ("depth", "uniform", "concat_channels", "concat_tokens", "prismer")
    ],
]
quick = dict(
    seeds=1,
    cells=["plain_clip", "baseline", "tove", "uniform", "depth"],
    settings=dict(
        schedule=dict(steps=200), scenes=dict(train=800, unlabelled=500, val=100, test=200)
    ),
)
