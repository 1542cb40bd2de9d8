"""What a user writes after --cfg-options, and what arrives."""

import pytest
from mmengine.config import Config, DictAction

from tove.config.loading import load_config
from tove.config.options import parse_options, parse_value
from tove.errors import ConfigError

# As mmengine's own action reads them.
AS_EVER = (
    "1",
    "-2",
    "1e-3",
    ".5",
    "True",
    "false",
    "None",
    "abc",
    "a/b.c",
    "1,2,3",
    "a,b",
    "[1,2]",
    "[a,b]",
    "[]",
    "[a, b, c]",
    "(1,2)",
    "[(1,2),(3,4)]",
    "[(1, 2, 3), [a, b], c]",
    "[None,True,x]",
    "1,",
    "[(a,b)]",
    "'abc'",
    '"abc"',
)


@pytest.mark.parametrize("text", AS_EVER)
def test_plain_values_and_lists_are_read_as_mmengine_reads_them(text):
    theirs = DictAction._parse_iterable(text)
    ours = parse_value(text)
    assert (ours, type(ours)) == (theirs, type(theirs))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a photo of", "a photo of"),
        (" a photo of ", " a photo of "),
        ("My run, no. 2", "My run, no. 2"),
        ("red, blue", "red, blue"),
        ("1, 2", [1, 2]),
        ("[red ball, blue box]", ["red ball", "blue box"]),
        ("['a, b', \"c\"]", ["a, b", "c"]),
        ("{'a': 1, 'b': [2, None]}", {"a": 1, "b": [2, None]}),
        ("{statement} is this true ?", "{statement} is this true ?"),
        ("{statement}", "{statement}"),
        ("a (b, c", "a (b, c"),
        ("it's 5, isn't it", "it's 5, isn't it"),
        ("'5'", "5"),
        ('"red,blue"', "red,blue"),
        ("'a' or 'b'", "'a' or 'b'"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_texts_stay_whole(text, value):
    assert parse_value(text) == value


CONFIG = """
data_root = "data"
seed = 0
batch_size = 2
report = dict()
model = dict(type="ToVE", transfer=dict(scale="learned"), init_from="x", token_cache=dict(),
    encoder=dict(type="TransformersCLIP"), experts=dict(depth=dict(type="tiny_depth")))
stages = [dict(type="TrainStage", name="a"), dict(type="ReportStage", name="b")]
test_dataloader = dict(dataset=dict(type="ConcatDataset", datasets=[
    dict(type="Questions", ann_file="q.jsonl"), dict(type="NoSuchKind", ann_file="q.jsonl")]))
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("data_root=2017", "2017"),
        ("data_root=1e3", "1e3"),
        ("data_root=a,b", "a,b"),
        ("data_root=None", None),
        ("seed=2017", 2017),
        ("report.title=My run, no. 2", "My run, no. 2"),
        ("report.title='2'", "2"),
        ("report.title=2017", "2017"),
        ("report.title=red,blue", "red,blue"),
        ("report.num_maps=3", 3),
        ("model.token_cache.dir=2017", "2017"),
        ("model.token_cache.max_gb=2", 2),
        ("model.experts.depth.weights=a,b.safetensors", "a,b.safetensors"),
        ("model.experts.depth.tiny=True", True),
        ("stages.0.model.init_from=2017", "2017"),
        ("stages.0.model.encoder.pretrained=1e3", "1e3"),
        ("stages.0.model.encoder.layer=-2", -2),
        ("model.transfer.scale=0.5", 0.5),
        ("stages.0.name=007", "007"),
        ("test_dataloader.dataset.datasets.0.ann_file=2017", "2017"),
        ("test_dataloader.dataset.datasets.0.prompt={question} yes, no", "{question} yes, no"),
        ("test_dataloader.dataset.datasets.0.answers=red,blue", ["red", "blue"]),
        ("test_dataloader.dataset.datasets.0.max_answers=3", 3),
        ("test_dataloader.dataset.datasets.1.ann_file=2017", 2017),  # of a kind that is not known
    ],
)
def test_a_setting_that_wants_a_text_gets_one(config, option, value):
    cfg = load_config(config, [option])
    found = cfg
    for part in option.partition("=")[0].split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    assert (found, type(found)) == (value, type(value))


def factory(  # of an expert, as its author may write one
    spec: "NotImported",  # noqa: F821 - as a type checker alone would know it
    weights: "Path | None" = None,  # noqa: F821
    model: "str | None" = None,
    prompt="a photo",
    layer: int = -1,
    scale=1.0,
    **others: object,
) -> "nn.Module":  # noqa: F821
    """Never called."""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model=2017", "2017"),
        ("model=1e3", "1e3"),
        ("model=None", None),
        ("model=a,b", "a,b"),
        ("prompt=a, b", "a, b"),
        ("prompt=7", "7"),
        ("layer=7", 7),
        ("scale=2", 2),
        ("another=2017", 2017),
    ],
)
def test_an_expert_s_factory_tells_which_of_its_options_are_texts(
    config, monkeypatch, option, value
):
    monkeypatch.setattr("tove.config.options.expert_factory", lambda name: factory)
    found = load_config(config, [f"model.experts.depth.{option}"]).model.experts.depth
    found = found[option.partition("=")[0]]
    assert (found, type(found)) == (value, type(value))


def test_an_option_is_read_for_the_type_that_the_command_line_gives(config):
    options = ["model.experts.depth.model=1e3", "model.experts.depth.type=timm"]
    assert load_config(config, options).model.experts.depth.model == "1e3"
    options[1] = "model.experts.depth.type=no_such_expert"
    assert load_config(config, options).model.experts.depth.model == 1000.0


def test_an_option_without_a_value_is_told():
    for option in ("data_root", "=3"):
        with pytest.raises(ConfigError, match=f"takes KEY=VALUE, but got '{option}'"):
            parse_options([option], Config())
