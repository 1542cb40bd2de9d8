# The rate and lambda of each transfer of the claim `transfer`: looked for on the validation split of one
# seed, the same ones tried for all.
question = "Are the rates and lambdas of the transfers the best of those tried?"
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy"]
seeds = 1  # no seed of its scores is compared with another claim's

models = dict(
    residual={},
    replace=dict(type="ToVEReplace"),
    concat=dict(type="ToVEConcat", transfer=dict(hidden=64)),  # as many weights as MLP_t
    cross_attention=dict(type="ToVECrossAttention"),
    separate=dict(type="ToVESeparateLayers"),
)
DEMO = (2e-3, 10.0)
tried = [DEMO, (5e-4, 10.0), (1e-3, 10.0), (4e-3, 10.0), (2e-3, 1.0)]  # rate, lambda
chosen = dict.fromkeys(models, (1e-3, 10.0))


def name_of(kind, rate, scale):
    """Name a cell; what it does not tell is the demo's."""
    return kind + (f"_at_{rate:g}" if rate != DEMO[0] else "") + ("_1" if scale == 1 else "")


def cell(kind, rate, scale):
    """A run scored on 600 scenes of the validation split."""
    return dict(
        scenes=dict(train=800, unlabelled=1, val=600, test=1),
        schedule=dict(lr=rate),
        model=dict(transfer=dict(scale=scale)),
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
        stages=[dict(type="TrainStage", name=name_of(kind, rate, scale), model=models[kind])],
    )


cells = {name_of(kind, *way): cell(kind, *way) for kind in models for way in tried}
tests = [
    dict(
        says=f"{kind}: a rate of {chosen[kind][0]:g} and lambda {chosen[kind][1]:g} are no point "
        f"below {way[0]:g} and {way[1]:g}",
        difference=(name_of(kind, *chosen[kind]), name_of(kind, *way)),
        metric="vsr/accuracy",
        above=-0.01,
    )
    for kind in models
    for way in tried
    if way != chosen[kind]
]
quick = dict(
    seeds=1,
    cells=["residual_at_0.001", "residual_1"],
    settings=dict(schedule=dict(steps=200), scenes=dict(val=100)),
)
