# MoVE-KD's ladder, each rung adds one part; a student without teachers is trained as hard. Then one
# encoder of plain CLIP's cost out of either method.
import itertools

question = "Does distilling a mixture of encoders improve the student, beyond training it as hard?"
paper = "MoVE-KD's student is above the CLIP that it began as, and each part of it adds something."
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "no_teachers"

# As in configs/tiny/move_kd_ladder-tiny_scenes.py.
train = dict(
    type="TrainStage",
    runner=dict(
        optim_wrapper=dict(paramwise_cfg=dict(custom_keys={"encoder": dict(lr_mult=0.05)}))
    ),
)
mole = dict(num_experts=3, rank=8, dropout=0.05)
student = dict(type="MoVEKD", student="full")
bare = dict(token_weight="none", teacher_weight="uniform")
rungs = dict(
    kd=dict(switches=dict(adapter="student_head", **bare)),
    adapter=dict(switches=bare),
    mole=dict(mole=mole, switches=bare),
    token_weight=dict(mole=mole, switches=dict(teacher_weight="uniform")),
    paper=dict(mole=mole),
    released=dict(mole=mole, preset="released"),
)
no_teachers = dict(clip_share=1.0, kd_weight=0.0)


def merged(source):
    """The stages that make one encoder of a stage's model."""
    return [
        dict(type="MergeStage", name="merge", source=source),
        dict(type="ExportStage", name=f"merged_{source}", source="merge"),
    ]


cells = dict(
    plain_clip=dict(
        stages=[dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP"))]
    ),
    no_teachers=dict(
        stages=[
            dict(
                name="no_teachers",
                role="baseline",
                model=dict(**student, mole=mole, switches=no_teachers),
                **train,
            )
        ]
    ),
    **{
        name: dict(stages=[dict(name=name, model=dict(**student, **model), **train)])
        for name, model in rungs.items()
    },
    fixed=dict(
        stages=[
            dict(name="fixed", model=dict(**student, mole=mole, preset="fixed"), **train),
            *merged("fixed"),
        ]
    ),
    tove=dict(stages=[dict(type="TrainStage", name="tove"), *merged("tove")]),
)

ladder = ["no_teachers", *rungs, "fixed"]
tests = [
    dict(
        says="the repaired student is above one trained as hard without teachers, in statements",
        difference=("fixed", "no_teachers"),
        metric="vsr/accuracy",
    ),
]
beside = [
    dict(
        says="the paper's student is above one trained as hard without teachers",
        difference=("paper", "no_teachers"),
        metric="vsr/accuracy",
    ),
    *[
        dict(
            says=f"{name} is above {before}",
            difference=(name, before),
            metric="vsr/accuracy",
        )
        for before, name in itertools.pairwise(ladder[1:6])
    ],
    dict(
        says="ToVE's merged encoder is above MoVE-KD's, at equal cost",
        difference=("merged_tove", "merged_fixed"),
        metric="vsr/accuracy",
    ),
]
quick = dict(
    seeds=1,
    cells=["plain_clip", "no_teachers", "paper"],
    tests=[
        dict(
            says="the paper's student is above one trained as hard without teachers",
            difference=("paper", "no_teachers"),
            metric="vsr/accuracy",
        ),
    ],
    settings=dict(
        schedule=dict(steps=200), scenes=dict(train=800, unlabelled=500, val=100, test=200)
    ),
)
