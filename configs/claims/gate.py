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
    sees_experts=dict(gate=dict(sees="experts")),
    balance_0=dict(balance_weight=0.0),
    balance_0_1=dict(balance_weight=0.1),
    balance_1=dict(balance_weight=1.0),
)


weighed = [
    "transfer",
    "sees_experts",
    "balance_0",
    "balance_1",
]  # what each expert adds takes a minute


def cell(name, model, row=None):
    """A gate is trained; then it is told where it looks, and of some what each expert adds."""
    adds = dict(type="ContributionStage", name="contribution", source=name)
    stages = [
        dict(type="TrainStage", name=name, row=row or name, model=model),
        *([adds] if name in weighed else []),
        dict(type="GateOnObjectsStage", name="on_objects", source=name),
    ]
    return dict(
        custom_imports=dict(imports=["tove.reproduce.gate_on_objects"]),
        stages=stages,
    )


cells = dict(
    uniform=dict(
        stages=[dict(type="TrainStage", name="uniform", model=dict(type="UniformAverage"))]
    ),
    tove=cell("transfer", {}, "tove"),
    **{name: cell(name, model) for name, model in gates.items()},
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
