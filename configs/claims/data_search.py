# How long the arms of `data_efficiency` train, and at which rate: looked for on the validation split of
# one seed, for plain CLIP and ToVE alike, at two of the sizes. What is chosen are twice the steps for
# four to eight times the images, and the demo's rate.
question = "Are the steps and the rate of the data curves the best of those tried, for both arms?"
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy"]
seeds = 1  # no seed of its scores is compared with another claim's

tried = {125: [125, 250, 500], 5000: [1000, 2000]}
chosen = {125: 250, 5000: 1000}
rates = [1e-3, 4e-3]  # beside 2e-3, with 125 images
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


def cell(name, arm, size, **schedule):
    """A run on so many images, scored on 600 scenes of the validation split."""
    return dict(
        scenes=dict(train=size, unlabelled=1, val=600, test=1),
        schedule=schedule,
        stages=[dict(type="TrainStage", name=name, model=models[arm])],
    )


cells = {
    **{
        f"{arm}_{size}_{steps}": cell(f"{arm}_{size}_{steps}", arm, size, steps=steps)
        for arm in models
        for size in tried
        for steps in tried[size]
    },
    **{
        f"{arm}_rate_{rate:g}": cell(f"{arm}_rate_{rate:g}", arm, 125, steps=250, lr=rate)
        for arm in models
        for rate in rates
    },
}
tests = [
    dict(
        says=f"{arm} with {size:,} images and {chosen[size]} steps is no point below {steps} steps",
        difference=(f"{arm}_{size}_{chosen[size]}", f"{arm}_{size}_{steps}"),
        metric="vsr/accuracy",
        above=-0.01,
    )
    for arm in models
    for size in tried
    for steps in tried[size]
    if steps != chosen[size]
] + [
    dict(
        says=f"{arm} with 125 images and a rate of 0.002 is no point below a rate of {rate:g}",
        difference=(f"{arm}_125_250", f"{arm}_rate_{rate:g}"),
        metric="vsr/accuracy",
        above=-0.01,
    )
    for arm in models
    for rate in rates
]
figure = dict(
    x="steps",
    lines={
        f"{arm}, {size:,} images": [f"{arm}_{size}_{steps}" for steps in tried[size]]
        for arm in models
        for size in tried
    },
)
quick = dict(
    seeds=1,
    cells=["tove_125_125", "tove_125_250"],
    settings=dict(scenes=dict(val=100)),
)
