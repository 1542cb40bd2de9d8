"""Captions by domain, for a server, and the scores of Java programs."""

import json
import random
import shutil
import unicodedata

import pytest

from tests.unit.evaluation.test_metrics import CAPTIONS, PENN_TREEBANK, caption, evaluate
from tove.errors import ConfigError
from tove.registry import METRICS


def build(**options):
    return METRICS.build(dict(type="CaptionScore", **options))


def test_each_domain_has_a_score_of_its_own():
    samples = [caption(key, CAPTIONS[key][0]) | dict(relation="near") for key in "12"]
    samples.append(caption("3", "nothing like it") | dict(relation="out"))
    scores = evaluate(build(per_relation=True), samples)
    alone = evaluate(build(), samples[:2])
    assert scores["caption/relation/near"] == pytest.approx(alone["caption/CIDEr"])
    assert scores["caption/relation/out"] == 0
    assert scores["caption/CIDEr"] < alone["caption/CIDEr"]
    assert 0 < scores["caption/ROUGE_L"] < 1


def test_captions_are_written_for_a_server_scored_or_not(tmp_path):
    path = tmp_path / "handed_in.json"
    samples = [caption("1", "a cat — \u00e9") | dict(source_id=7)]
    unknown = caption("2", "a dog") | dict(source_id=8, references=[])
    scores = evaluate(build(submission=str(path)), [*samples, unknown])
    assert scores["caption/num_images"] == 1
    assert json.loads(path.read_text()) == [
        {"image_id": 7, "caption": "a cat — \u00e9"},
        {"image_id": 8, "caption": "a dog"},
    ]
    assert evaluate(build(submission=str(path)), [unknown]) == {"caption/num_images": 1}


def test_a_java_program_that_cannot_run_is_a_sentence(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="METEOR, a Java program, and there is no `java`"):
        build(java=["METEOR"])


def test_spice_fetches_nothing_by_itself(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr("tove.evaluation.caption._package", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"SPICE, but spice/spice-1.0.jar is not in"):
        build(java=["SPICE"])


def test_a_meteor_that_was_installed_in_part_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr("tove.evaluation.caption._package", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"meteor-1.5.jar is not .* install pycocoevalcap again"):
        build(java=["METEOR"])


def pycocoevalcaps(references: dict, predictions: dict) -> dict:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu = Bleu(4).compute_score(references, predictions, verbose=0)[0]
    scores = {f"caption/BLEU_{n}": score for n, score in enumerate(bleu, start=1)}
    scores["caption/CIDEr"] = Cider().compute_score(references, predictions)[0]
    return scores | {"caption/ROUGE_L": Rouge().compute_score(references, predictions)[0]}


def test_scores_are_pycocoevalcaps_on_plain_words():
    chance = random.Random(0)
    words = "a the man dog red ball on in with two near grass it is".split()

    def text() -> str:
        return " ".join(chance.choices(words, k=chance.randint(1, 12)))

    references = {str(n): [text() for _ in range(chance.randint(1, 5))] for n in range(12)}
    predictions = {key: [text()] for key in references}
    samples = [
        dict(task="caption", image_id=key, prediction=predictions[key][0], references=texts)
        for key, texts in references.items()
    ]
    found = evaluate(build(), samples)
    for name, expected in pycocoevalcaps(references, predictions).items():
        assert found[name] == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="pycocoevalcap's tokenizer needs Java")
def test_scores_are_pycocoevalcaps_on_captions_that_are_hard_to_split():
    """Quotes, contractions, numerals, punctuation, other scripts, and a caption of nothing."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = list(PENN_TREEBANK)
    samples = [
        dict(
            task="caption",
            image_id=str(n),
            references=[texts[n], texts[n - 1]],
            prediction="" if n == 3 else f"{texts[n]} {texts[(n + 1) % len(texts)]}",
        )
        for n in range(len(texts))
    ]
    tokenizer = PTBTokenizer()

    def tokens(lists: list[list[str]]) -> dict:
        given = {str(n): [dict(caption=text) for text in own] for n, own in enumerate(lists)}
        found = tokenizer.tokenize(given)
        return {n: [unicodedata.normalize("NFC", text) for text in own] for n, own in found.items()}

    references = tokens([sample["references"] for sample in samples])
    predictions = tokens([[sample["prediction"]] for sample in samples])
    found = evaluate(build(), samples)
    for name, expected in pycocoevalcaps(references, predictions).items():
        assert found[name] == pytest.approx(expected, rel=1e-12), name


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program")
def test_meteor_runs_where_it_is_asked_for():
    samples = [caption("1", CAPTIONS["1"][0]), caption("2", "nothing like it")]
    assert 0.2 < evaluate(build(java=["METEOR"]), samples)["caption/METEOR"] < 0.9
