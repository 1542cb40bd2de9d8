# Trained on scenes of one world, measured on those of others: each differs from it in one thing, and
# has the same random numbers. Shapes, colours and numbers of things are new to what is trained; the
# shipped encoders and language model have met all of them, but never such a camera.
question = "Does the experts' gain hold on scenes that are unlike those of training?"
config = "../tiny/tove-tiny_scenes.py"
shifts = dict(
    more=dict(objects=[4, 5]),
    camera=dict(pitch=[0.6, 0.75], height=[4.0, 5.0], fov=[0.58, 0.7]),
    colours=dict(colours=["cyan", "orange"]),
    shapes=dict(shapes=["cylinder"]),
)
metrics = ["seen/accuracy", *[f"{name}/accuracy" for name in shifts]]
over = "plain_clip"

statements = dict(
    type="VSRStatements",
    prompt="{statement} ?",
    img_dir="images",
    test_mode=True,
    keep_decoded_gb=0.5,
)
files = dict(seen="test", **{name: name for name in shifts})
settings = dict(
    scenes=dict(
        train=800,
        unlabelled=1,
        val=100,
        test=400,
        world=dict(
            objects=[2, 3],
            colours=["red", "green", "blue", "yellow", "purple"],
            shapes=["ball", "box"],
        ),
        shifted=shifts,
    ),
    table_metrics=metrics,
    test_dataloader=dict(
        dataset=dict(
            datasets=[
                dict(ann_file=f"annotations/statements_{file}.jsonl", benchmark=name, **statements)
                for name, file in files.items()
            ]
        )
    ),
    test_evaluator=[
        dict(type="StatementAccuracy", prefix=name, benchmark=name, per_relation=False)
        for name in files
    ],
)
cells = {
    name: dict(stages=[dict(type="TrainStage", name=name, model=model)])
    for name, model in dict(
        plain_clip=dict(type="PlainCLIP"),
        baseline=dict(type="MatchedBaseline"),
        tove={},
        uniform=dict(type="UniformAverage"),
    ).items()
}

tests = [
    dict(
        says=f"ToVE is above plain CLIP ({name})",
        difference=("tove", "plain_clip"),
        metric=f"{name}/accuracy",
    )
    for name in files
]
beside = [
    dict(
        says=f"ToVE is above {arm} ({name})",
        difference=("tove", arm),
        metric=f"{name}/accuracy",
    )
    for arm in ("baseline", "uniform")
    for name in files
]
quick = dict(
    seeds=1,
    cells=["plain_clip", "tove"],
    settings=dict(schedule=dict(steps=200), scenes=dict(val=50, test=150)),
)
