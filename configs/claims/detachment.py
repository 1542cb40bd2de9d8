# Experts are taken away one by one, by each rule; nothing is trained again.
question = "Can experts be detached without falling below a CLIP that never had any?"
paper = "Experts that the gate uses little can be detached at a small loss (figure 5)."
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "plain_clip"

rules = ["gate", "leave_one_out", "shapley", "random"]
cells = dict(
    plain_clip=dict(
        stages=[dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP"))]
    ),
    tove=dict(
        stages=[
            dict(type="TrainStage", name="transfer", row="tove"),
            *[dict(type="DetachStage", name=rule, source="transfer", rule=rule) for rule in rules],
        ]
    ),
)

tests = [
    dict(
        says="with all experts detached ToVE is less than two points below plain CLIP",
        difference=("leave_one_out-0", "plain_clip"),
        metric="vsr/accuracy",
        above=-0.02,
    ),
    dict(
        says="with one expert detached it is above plain CLIP",
        difference=("leave_one_out-3", "plain_clip"),
        metric="vsr/accuracy",
    ),
]
beside = [
    *[
        dict(
            says=f"with {left} left, leave_one_out is above {rule}",
            difference=(f"leave_one_out-{left}", f"{rule}-{left}"),
            metric="vsr/accuracy",
        )
        for rule in ("gate", "shapley", "random")
        for left in (3, 2, 1)
    ],
    *[
        dict(
            says=f"with {left} left it keeps nine tenths of the gain",
            share=(f"leave_one_out-{left}", "tove", "plain_clip"),
            metric="vsr/accuracy",
            above=0.9,
        )
        for left in (3, 2, 1)
    ],
]
figure = dict(
    x="flops",
    lines={rule: ["tove", *[f"{rule}-{left}" for left in (3, 2, 1, 0)]] for rule in rules},
)
quick = dict(
    seeds=1,
    settings=dict(
        schedule=dict(steps=200), scenes=dict(train=800, unlabelled=500, val=100, test=200)
    ),
)
