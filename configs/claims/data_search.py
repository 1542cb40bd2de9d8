# How long the arms of `data_efficiency` train, and at which rate: looked for on the validation split of
# one seed, for plain CLIP and ToVE alike, at three of the sizes.
question = "Are the steps and the rate of the data curves the best of those tried, for both arms?"
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy"]
seeds = 1  # no seed of its scores is compared with another claim's

RATE = 2e-3  # the demo's
tried = {  # by images: steps, and the rate
    125: [
        (125, RATE),
        (250, RATE),
        (500, RATE),
        (250, 5e-4),
        (250, 1e-3),
        (250, 4e-3),
        (500, 5e-4),
        (500, 1e-3),
    ],
    800: [(500, RATE), (500, 1e-3), (1000, 1e-3), (1000, RATE)],
    5000: [(1000, RATE), (2000, RATE), (2000, 1e-3), (4000, RATE)],
}
chosen = {125: (250, 1e-3), 800: (1000, 1e-3), 5000: (2000, 1e-3)}
models = dict(plain_clip=dict(type="PlainCLIP"), tove={})
settings = dict(
    table_metrics=metrics,
    test_dataloader=dict(
        dataset=dict(
            datasets=[
                dict(
                    type="VSRStatements",
                    ann_file="annotations/statements_val.jsonl",
                    img_dir="images",
                    prompt="{statement} ?",
                    test_mode=True,
                    keep_decoded_gb=0.5,
                )
            ]
        )
    ),
    test_evaluator=[dict(type="StatementAccuracy")],
)


def name_of(arm, size, steps, rate):
    """Name a cell; what it does not tell is the demo's."""
    return f"{arm}_{size}_{steps}" + (f"_at_{rate:g}" if rate != RATE else "")


def cell(name, arm, size, steps, rate):
    """A run on so many images, scored on 600 scenes of the validation split."""
    return dict(
        scenes=dict(train=size, unlabelled=1, val=600, test=1),
        schedule=dict(steps=steps, **({} if rate == RATE else dict(lr=rate))),
        stages=[dict(type="TrainStage", name=name, model=models[arm])],
    )


cells = {
    name_of(arm, size, *way): cell(name_of(arm, size, *way), arm, size, *way)
    for arm in models
    for size, ways in tried.items()
    for way in ways
}
tests = [
    dict(
        says=f"{arm} with {size:,} images: {chosen[size][0]} steps at {chosen[size][1]:g} are no "
        f"point below {way[0]} at {way[1]:g}",
        difference=(name_of(arm, size, *chosen[size]), name_of(arm, size, *way)),
        metric="vsr/accuracy",
        above=-0.01,
    )
    for arm in models
    for size, ways in tried.items()
    for way in ways
    if way != chosen[size]
]
figure = dict(
    x="steps",
    lines={
        f"{arm}, {size:,} images": [
            name_of(arm, size, *way) for way in sorted(ways) if way[1] == RATE
        ]
        for arm in models
        for size, ways in tried.items()
    },
)
quick = dict(
    seeds=1,
    cells=["tove_125_250", "tove_125_250_at_0.001"],
    settings=dict(scenes=dict(val=100)),
)
