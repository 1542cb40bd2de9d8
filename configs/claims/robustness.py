# A trained ToVE meets an expert that breaks, and one that is added after the rest was trained.
question = "Does ToVE bear a broken expert, and take a new one without training the rest again?"
config = "../tiny/tove-tiny_scenes.py"
metrics = ["vsr/accuracy", "caption/CIDEr"]
over = "plain_clip"

slots = ["depth", "segmentation", "detection", "dino"]
ways = ["zero", "noise", "other", "gone"]  # see tove.reproduce.broken
new = "depth"  # which nothing replaces, so that what it adds is seen
broken = [
    dict(type="BrokenExpertStage", name=f"{slot}_{way}", source="transfer", slot=slot, way=way)
    for slot in slots
    for way in ways
]

cells = dict(
    plain_clip=dict(
        stages=[dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP"))]
    ),
    broken=dict(
        custom_imports=dict(imports=["tove.reproduce.broken"]),
        stages=[dict(type="TrainStage", name="transfer", row="tove"), *broken],
    ),
    added=dict(
        stages=[
            dict(type="TrainStage", name="three", model=dict(detached=[new])),
            dict(
                type="TrainStage",
                name="added",
                source="three",
                # Steps in which the new expert sits out would teach it nothing.
                model=dict(detached=[], expert_dropout=0.0),
                trains=[f"projector.first.{new}", f"gate.heads.{new}"],
                schedule=dict(steps=250),
            ),
        ]
    ),
)

tests = [
    *[
        dict(
            says=f"with {slot} looking at another image ToVE is above plain CLIP",
            difference=(f"{slot}_other", "plain_clip"),
            metric="vsr/accuracy",
        )
        for slot in slots
    ],
    dict(
        says=f"{new} added later, its own layers alone trained, raises the score",
        difference=("added", "three"),
        metric="vsr/accuracy",
    ),
]
beside = [
    *[
        dict(
            says=f"{slot} broken ({way}) is above {slot} detached",
            difference=(f"{slot}_{way}", f"{slot}_gone"),
            metric="vsr/accuracy",
        )
        for slot in slots
        for way in ways[:-1]
    ],
    dict(
        says=f"{new} added later gives half of what it gives when all is trained with it",
        share=("added", "tove", "three"),
        metric="vsr/accuracy",
        above=0.5,
    ),
]
quick = dict(
    seeds=1,
    settings=dict(
        schedule=dict(steps=200), scenes=dict(train=800, unlabelled=500, val=100, test=200)
    ),
)
