"""Lengths of conversations are looked at before a training; images always have to fit."""

from types import SimpleNamespace

import pytest

from tove.backbones.language.causal_lm import CausalLanguageModel
from tove.backbones.language.chat import ChatLanguageModel
from tove.data.views import build_view
from tove.engine.stages.text_checks import check_lengths, check_texts, warn_of_unknown_words
from tove.engine.trainable_state import choose_trained
from tove.errors import ConfigError


class Talks(list):
    def __init__(self, answers, view="pad"):
        super().__init__(answers)
        self.view = build_view(view, 32)

    def get_data_info(self, index):
        asked = [{"from": "human", "value": "<image>\nWhat is it?"}]
        said = [*asked, {"from": "gpt", "value": self[index]}]
        return dict(image_id="a", image_paths=["a"], conversations=said, task="conversation")


def model_with(chat_folder, **options):
    language = ChatLanguageModel(str(chat_folder), **options)
    return SimpleNamespace(language=language, encoder=SimpleNamespace(grid=(4, 4)))


def test_how_many_are_cut_is_told_and_images_without_room_are_refused(chat_folder, log):
    model = model_with(chat_folder, max_tokens=300)
    short = model.language.num_tokens(Talks(["A cat."]).get_data_info(0)) + 16
    assert short < 300
    check_lengths(model, Talks(["A cat."]))
    assert not log
    wrapped = SimpleNamespace(datasets=[Talks(["A cat.", "cat " * 300])])
    check_lengths(model, wrapped)
    assert "1 of 2 conversations looked at have more than" in log[-1].getMessage()
    model.language.max_tokens = 40
    check_lengths(model, Talks(["A cat."]))  # 16 tokens of an image fit
    with pytest.raises(ConfigError, match="image tokens are never cut"):
        check_lengths(model, Talks(["A cat."], view="anyres"))  # 16 + 8 * 9


def test_a_question_without_room_and_a_model_that_reads_no_conversation_are_refused(chat_folder):
    def check(model, data):
        context = SimpleNamespace(evaluation_loader=lambda name: SimpleNamespace(dataset=data))
        check_texts(context, model, "test_dataloader")

    model = model_with(chat_folder)
    check(model, Talks(["A cat."]))
    with pytest.raises(ConfigError, match=r"'<image>.nWhat is it.'.* room for 584"):
        check(model, Talks(["cat " * 600]))
    model.language = CausalLanguageModel(str(chat_folder), "prefix")
    for refuses in (check, check_lengths):
        with pytest.raises(ConfigError, match="a CausalLanguageModel does not read"):
            refuses(model, Talks(["A cat."]))


def test_what_is_held_in_16_bits_does_not_train(chat_folder):
    model = model_with(chat_folder, dtype="bfloat16").language
    with pytest.raises(ConfigError, match="lost to rounding"):
        choose_trained(model, ["lm"], "stages.tune.trains")


class Captions(list):
    def get_data_info(self, index):
        return dict(prompt="a photo of", target=self[index])


def test_words_that_the_language_model_does_not_know_are_told_where_they_are_many(log):
    heard = []

    def unknown_share(texts):
        heard.extend(texts)
        return sum("zebra" in text for text in texts) / len(texts)

    model = SimpleNamespace(language=SimpleNamespace(unknown_share=unknown_share))
    warn_of_unknown_words(model, Captions(["a cat"] * 20))
    assert heard == ["a photo of a cat"] * len(heard)
    assert not log
    warn_of_unknown_words(model, Captions(["a cat", "a zebra"]))
    assert "50 % of the words to train on are unknown" in log[-1].getMessage()
