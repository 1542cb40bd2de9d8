# What ToVE is measured against, in one table: no experts, each expert alone, and other ways of using all
# of them. The same images, steps and rates for all; about twelve minutes on two CPU cores.
_base_ = ["./tove-tiny_scenes.py"]

stages = [
    dict(type="TrainStage", name="plain_clip", model=dict(type="PlainCLIP")),
    dict(type="TrainStage", name="baseline", model=dict(type="MatchedBaseline")),
    dict(type="TrainStage", name="depth", model=dict(type="SingleExpert", expert="depth")),
    dict(
        type="TrainStage",
        name="segmentation",
        model=dict(type="SingleExpert", expert="segmentation"),
    ),
    dict(type="TrainStage", name="detection", model=dict(type="SingleExpert", expert="detection")),
    dict(type="TrainStage", name="dino", model=dict(type="SingleExpert", expert="dino")),
    dict(type="TrainStage", name="uniform", model=dict(type="UniformAverage")),
    dict(type="TrainStage", name="concat_channels", model=dict(type="ConcatChannels")),
    dict(type="TrainStage", name="concat_tokens", model=dict(type="ConcatTokens")),
    dict(
        type="TrainStage",
        name="prismer",
        model=dict(type="PrismerResampler", resampler=dict(num_queries=16)),
    ),
    dict(type="TrainStage", name="transfer", row="tove"),
    dict(type="ReportStage", name="report"),
]
