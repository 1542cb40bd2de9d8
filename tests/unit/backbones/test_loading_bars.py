import pytest
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import AutoModelForCausalLM, CLIPVisionModel
from transformers.utils import logging

from tove.backbones.language.loading import load_causal_lm
from tove.backbones.loading_bars import without_bars
from tove.backbones.vit import load_whole


def in_parts(model_class, folder, out):
    """Write a model in several files, for which version 4 draws a bar as well."""
    model_class.from_pretrained(folder).save_pretrained(out, max_shard_size="30KB")
    return str(out)


def load_encoder(folder):
    load_whole(CLIPVisionModel, folder, "the config's name")


def load_language(folder):
    load_causal_lm(folder, "prefix", None)


@pytest.mark.parametrize("kind", ["encoder", "language"])
def test_models_load_without_bars_which_others_loads_have(
    kind, clip_folder, chat_folder, tmp_path, capfd
):
    from transformers import AutoTokenizer

    model_class, source, load = {
        "encoder": (CLIPVisionModel, clip_folder, load_encoder),
        "language": (AutoModelForCausalLM, chat_folder, load_language),
    }[kind]
    folder = in_parts(model_class, source, tmp_path)
    if kind == "language":
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    capfd.readouterr()
    load(folder)
    assert "Loading" not in "".join(capfd.readouterr())
    model_class.from_pretrained(folder)
    assert "Loading" in capfd.readouterr().err


def test_downloads_keep_their_bars():
    with without_bars():
        assert not logging.is_progress_bar_enabled()
        assert not are_progress_bars_disabled()
    assert logging.is_progress_bar_enabled()
