# ToVE is merged into one encoder of plain CLIP's cost, with more and more steps; the baseline on the
# same images for as many steps is its control. The longest sees 12,000 images in place of 3,000.
question = "Does one merged encoder keep half of the experts' gain, at plain CLIP's cost?"
paper = "The merged encoder keeps most of the gain without any expert running."
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "plain_clip"

lengths = [500, 1500, 6000]
images = {6000: dict(scenes=dict(unlabelled=12000))}
last = lengths[-1]
models = dict(merged=("tove", {}), control=("baseline", dict(type="MatchedBaseline")))


def cell(number, name="merged"):
    """A cell of its own for each length, so that a long one runs beside the others."""
    teacher, model = models[name]
    schedule = dict(steps=number)
    stages = [
        dict(type="TrainStage", name="teacher", row=f"{teacher}_{number}", model=model),
        dict(type="MergeStage", name="merge", source="teacher", schedule=schedule),
        dict(type="ExportStage", name=f"{name}_{number}", source="merge"),
    ]
    return dict(stages=stages, **images.get(number, {}))


def kept(number, share, metric="vsr/accuracy"):
    """The criterion that so much of the gain is left after so many steps."""
    words = {0.5: "half of the gain is kept", 0.9: "nine tenths of the gain are kept"}[share]
    what = {"vsr/accuracy": "in statements", "caption/CIDEr": "in captions"}[metric]
    arms = (f"merged_{number}", f"tove_{number}", "plain_clip")
    says = f"after {number:,} steps {words}, {what}"
    return dict(says=says, share=arms, metric=metric, above=share)


cells = dict(
    plain_clip=dict(
        stages=[dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP"))]
    ),
    **{f"merged_{number}": cell(number) for number in lengths},
    control_1500=cell(1500, "control"),
)

tests = [kept(1500, 0.5)]  # the demo's
beside = [
    kept(500, 0.5),
    kept(1500, 0.9),
    kept(last, 0.9),
    *[kept(number, 0.5, "caption/CIDEr") for number in (1500, last)],
    dict(
        says="merged ToVE is above the baseline merged alike, after 1,500 steps",
        difference=("merged_1500", "control_1500"),
        metric="vsr/accuracy",
    ),
]
figure = dict(x="steps", lines=dict(merged=[f"merged_{number}" for number in lengths]))
quick = dict(
    seeds=1,
    cells=["plain_clip", "merged_500"],
    tests=[kept(500, 0.5)],
    settings=dict(
        schedule=dict(steps=200), scenes=dict(train=800, unlabelled=500, val=100, test=200)
    ),
)
