# The residual transfer beside other ways for the experts' mixture into the tokens, its lambda and its
# start, the layer that all experts share, and a merge's student that trains along. The rate of the first
# five was searched alike (the claim `transfer_search`): 1e-3 for each. The others have the demo's, 2e-3.
question = "Is the residual transfer better than replacing, concatenating or attending?"
paper = (
    "Experts' knowledge is added to CLIP's own tokens as a residual, which keeps what CLIP knows."
)
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "tove"

ways = dict(
    residual={},
    replace=dict(type="ToVEReplace"),
    concat=dict(type="ToVEConcat", transfer=dict(hidden=64)),  # as many weights as MLP_t
    cross_attention=dict(type="ToVECrossAttention"),
    separate_layers=dict(type="ToVESeparateLayers"),
)
switches = dict(
    lambda_1=dict(transfer=dict(scale=1.0)),
    lambda_30=dict(transfer=dict(scale=30.0)),
    lambda_learned=dict(transfer=dict(scale="learned")),
    zero_start=dict(transfer=dict(zero_init=True)),
    zero_start_learned=dict(transfer=dict(scale="learned", zero_init=True)),
)


def cell(name, model, **more):
    """A run of one stage."""
    return dict(stages=[dict(type="TrainStage", name=name, model=model)], **more)


along = dict(student="full", loss="readout")
alike = dict(loss="readout", keep=0.0)  # and as many steps, by the same optimiser and rate
cells = dict(
    tove=dict(stages=[dict(type="TrainStage", name="transfer", row="tove")]),
    **{name: cell(name, model, schedule=dict(lr=1e-3)) for name, model in ways.items()},
    **{name: cell(name, model) for name, model in switches.items()},
    # A small lambda asks for a larger rate.
    lambda_1_at_4e_3=cell("lambda_1_at_4e_3", switches["lambda_1"], schedule=dict(lr=4e-3)),
    plain_clip=dict(
        stages=[dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP"))]
    ),
    joint=dict(
        stages=[
            dict(type="TrainStage", name="joint", row="tove_joint", model=dict(merging=along)),
            dict(type="ExportStage", name="merged_joint", source="joint"),
        ]
    ),
    apart=dict(
        unlabelled_dataloader=dict(batch_size=32),  # as the student along
        stages=[
            dict(type="TrainStage", name="transfer", row="tove_apart"),
            dict(
                type="MergeStage",
                name="merge",
                source="transfer",
                model=alike,
                schedule=dict(steps=500, lr=2e-3, optimizer="AdamW"),
            ),
            dict(type="ExportStage", name="merged_apart", source="merge"),
        ],
    ),
)


def above(says, a, b, metric="vsr/accuracy"):
    """The criterion that an arm is above another."""
    return dict(says=says, difference=(a, b), metric=metric)


others = ["replace", "concat", "cross_attention"]
tests = [above(f"the residual is above {name}", "residual", name) for name in others]
beside = [
    *[above(f"and in captions above {name}", "residual", name, "caption/CIDEr") for name in others],
    above("the residual is above separate second layers", "residual", "separate_layers"),
    above("the residual at half the demo's rate is above the demo's", "residual", "tove"),
    *[above(f"{name} is above lambda 10, random start", name, "tove") for name in switches],
    above("lambda 1 at twice the rate is above lambda 10", "lambda_1_at_4e_3", "tove"),
    above("with a student along ToVE is above what it is without", "tove_joint", "tove"),
    above("a merge in a stage of its own is above one along", "merged_apart", "merged_joint"),
    above("the student that trains along is above plain CLIP", "merged_joint", "plain_clip"),
]
quick = dict(
    seeds=1,
    cells=["residual", *others],
    settings=dict(
        schedule=dict(steps=200), scenes=dict(train=800, unlabelled=500, val=100, test=200)
    ),
)
