# The gate's switches, one at a time, against a plain average of the experts.
question = "Is a learned gate better than a plain average of the experts?"
paper = (
    "A token-aware gate chooses among the experts; a balance loss keeps it from using one alone."
)
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "uniform"

gates = dict(
    top_1=dict(gate=dict(top_k=1)),
    top_2=dict(gate=dict(top_k=2)),
    noisy_top_2=dict(gate=dict(top_k=2, noise=1.0)),
    noisy=dict(gate=dict(noise=1.0)),
    sharp=dict(gate=dict(temperature=0.25)),
    flat=dict(gate=dict(temperature=4.0)),
    hidden=dict(gate=dict(hidden=64)),
    balance_0=dict(balance_weight=0.0),
    balance_0_1=dict(balance_weight=0.1),
    balance_1=dict(balance_weight=1.0),
)
cells = dict(
    uniform=dict(
        stages=[dict(type="TrainStage", name="uniform", model=dict(type="UniformAverage"))]
    ),
    tove=dict(stages=[dict(type="TrainStage", name="transfer", row="tove")]),
    **{
        name: dict(stages=[dict(type="TrainStage", name=name, model=model)])
        for name, model in gates.items()
    },
)

tests = [
    dict(
        says="the learned gate is above a plain average, in statements",
        difference=("tove", "uniform"),
        metric="vsr/accuracy",
    ),
]
beside = [
    dict(
        says="and in captions",
        difference=("tove", "uniform"),
        metric="caption/CIDEr",
    ),
    *[
        dict(
            says=f"{name} is above the gate as it is",
            difference=(name, "tove"),
            metric="vsr/accuracy",
        )
        for name in gates
    ],
]
quick = dict(
    seeds=1,
    cells=["uniform", "tove", "top_2", "balance_1"],
    settings=dict(
        schedule=dict(steps=200), scenes=dict(train=800, unlabelled=500, val=100, test=200)
    ),
)
