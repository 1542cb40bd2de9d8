"""Caption scores by pycocoevalcap: CIDEr (Vedantam et al., arXiv 1411.5726), BLEU and ROUGE-L.

METEOR and SPICE are Java programs, which run where they are asked for. pycocoevalcap's own
tokenizer is one too; `caption_words` follows the same Penn Treebank rules for lower-cased captions
and drops the same punctuation, in Python.
"""

import json
import logging
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import regex
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from tove.atomic_io import write_text
from tove.config.validation import Range
from tove.errors import ConfigError
from tove.evaluation.intervals import bootstrap_interval
from tove.registry import METRICS

__all__ = ["CaptionScore", "caption_words"]

# By code point what the Treebank writes in its place: straight quotes, spaces for dashes, words for
# some signs, and brackets in lower case (the COCO scorer keeps those, since it looks for their
# capital forms after lower-casing). Soft hyphens go.
_PLAIN = {0x2018: '"', 0x2019: "'", 0x60: "'", 0x201C: '"', 0x201D: '"', 0xAB: '"', 0xBB: '"'}
_PLAIN |= {0x2013: " ", 0x2014: " ", 0xAD: "", 0x200B: " ", 0x200C: " ", 0x200D: " "}
_PLAIN |= {0xA3: " # ", 0x20AC: " $ ", 0xA2: " cents ", 0xBC: "1/4", 0xBD: "1/2", 0xBE: "3/4"}
_BRACKETS = {"(": "lrb", ")": "rrb", "[": "lsb", "]": "rsb", "{": "lcb", "}": "rcb"}
_SUBSTITUTES = str.maketrans(_PLAIN | {ord(k): f" -{v}- " for k, v in _BRACKETS.items()})
_COMPOUNDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
    "'tis": "'t is",
    "'twas": "'t was",
}
# The library `regex`, as its \w holds the marks that combine with a letter, as in Hindi or Thai.
_WORD = regex.compile(
    r"""
      (?:https?://|www\.)[^\s"]*[\w/]
    | [\w.+-]+@\w+(?:\.\w+)+                      # me@home.org
    | (?:[a-z]\.)+[a-z](?![\w.])                  # u.s.a
    | (?:[a-z]\.){2,} | \bph\.d\.                 # u.s.
    | \b(?:mr|mrs|ms|dr|st|jr|sr|vs?|etc|mt)\.(?=\s|$)  # abbreviations keep their full stop
    | no\.(?=\s\d)
    | -[lr][rsc]b-
    | \d+(?:[.,:]\d+)+                            # 3.5  10:30  1,000
    | (?<!\S)[+-]?\.?\d+(?![\w./-])               # -5  .5
    | \b[cf](?:\+\+|\#)                           # c++
    | '(?:em|tis|twas)\b | (?<!\S)'\d\ds?\b     # the '90s
    | n't\b | '(?:s|re|ve|ll|d|m)\b               # the tails of don't, man's
    | 'n'?(?!\w)                                  # rock 'n roll
    | \b(?:ol|y)'(?!\S) | \by'(?=all\b)           # ol' man, y'all
    | [^\W_]+?(?=n't\b)                           # the do of don't
    | (?-i:[A-Z]+(?:&[A-Z]+)+)                    # AT&T
    | \b(?:[dlno]|qu)'\w+ | \b[dlj]'             # o'clock, l'eau
    | (?:@|\#(?=[a-z]))?\w+(?:[-/.]\w+)*         # black-and-white, @home
    | [^\w\s.,:;?!'"\u2026-]                      # $ % & stay, other punctuation goes
    """,
    regex.VERBOSE | regex.IGNORECASE,
)


def caption_words(text: str) -> str:
    """Return the words of a caption, lower case, separated by single spaces.

    Letters are composed first, so that a text is the same in either of Unicode's forms. As in the
    Java program nothing beyond Unicode's first plane is a word, pictures such as emoji above all.
    """
    text = unicodedata.normalize("NFC", text).translate(_SUBSTITUTES)
    words = map(str.lower, _WORD.findall(regex.sub(r"[^\0-\uffff]", " ", text)))
    return " ".join(_COMPOUNDS.get(word, word) for word in words)


@METRICS.register_module()
class CaptionScore(BaseMetric):
    """CIDEr with a bootstrap interval over images, BLEU and ROUGE-L.

    CIDEr is 1.0 where papers write 100. Its interval resamples the images' scores; the document
    frequencies stay those of the whole set. Samples of other tasks are left out, see
    `StatementAccuracy`.

    Attributes:
        item_metric: the score that `item_scores` are the items of.
        item_scores: after `evaluate`, on the main process: CIDEr of each image by its id.

    Args:
        java: the scores of Java programs to compute as well.
        per_relation: report CIDEr of each part of the images too, such as NoCaps' domains, each by
            its own words' frequencies, as NoCaps' server does.
        submission: file to write the captions to in the format of COCO's and NoCaps' servers.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
        collect_device: mmengine's: "cpu" or "gpu".
        prefix: mmengine's: of the names of the scores.

    Raises:
        ConfigError: a Java program is asked for that cannot run here.
    """

    default_prefix = "caption"
    item_metric = "CIDEr"

    def __init__(
        self,
        java: Sequence[Literal["METEOR", "SPICE"]] = (),
        per_relation: bool = False,
        submission: str | None = None,
        num_resamples: Annotated[int, Range(1, 10**7)] = 2000,
        seed: Annotated[int, Range(0)] = 0,
        collect_device: Literal["cpu", "gpu"] = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        for name in java:
            _check_java(name)
        self.java, self.per_relation, self.submission = tuple(java), per_relation, submission
        self.num_resamples = num_resamples
        self.seed = seed
        self.item_scores: dict[str, float] = {}

    def process(self, data_batch: object, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep of each sample its id, its part and the captions."""
        for sample in data_samples:
            item = None
            if sample["task"] == "caption" and not sample.get("skipped"):
                references = [caption_words(text) for text in sample["references"]]
                own = sample.get("source_id"), sample["prediction"], sample.get("relation")
                item = (sample["image_id"], references, own)
            self.results.append(item)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Return CIDEr, CIDEr_low, CIDEr_high, BLEU_1..4, ROUGE_L, num_images, what was asked for.

        Images without references, of a split for the server, have no score.
        """
        items = {item[0]: item[1:] for item in results if item is not None}
        self.item_scores = {}
        if self.submission and items:
            rows = [{"image_id": own[0], "caption": own[1]} for _, own in items.values()]
            write_text(Path(self.submission), json.dumps(rows, ensure_ascii=False) + "\n")
        references = {key: texts for key, (texts, _) in items.items() if texts}
        if not references:
            return {"num_images": len(items)} if items else {}
        if len(references) == 1:
            print_log(
                "The CIDEr of a single image is 0 whatever its caption: words are weighed by the "
                "number of test images that they occur with. Evaluate on more.",
                logger="current",
                level=logging.WARNING,
            )
        predictions = {key: [caption_words(items[key][1][1])] for key in references}
        self.item_scores = _cider(references, predictions)
        cider = bootstrap_interval(list(self.item_scores.values()), self.num_resamples, self.seed)
        scores: dict[str, float] = dict(
            CIDEr=cider.value, CIDEr_low=cider.low, CIDEr_high=cider.high, num_images=cider.n
        )
        scores |= _other_scores(references, predictions)
        scores |= {name: _java_score(name, references, predictions) for name in self.java}
        if self.per_relation:
            parts = {key: str(items[key][1][2] or "unknown") for key in references}
            for part in sorted(set(parts.values())):
                own = [key for key in references if parts[key] == part]
                found = _cider({k: references[k] for k in own}, {k: predictions[k] for k in own})
                scores[f"relation/{part}"] = sum(found.values()) / len(found)
        return scores


Captions = Mapping[Any, list[str]]


def _cider(references: Captions, predictions: Captions) -> dict[Any, float]:
    """Return the CIDEr of each image."""
    from pycocoevalcap.cider.cider import Cider

    _, per_image = Cider().compute_score(references, predictions)
    return dict(zip(references, map(float, per_image), strict=True))


def _other_scores(references: Captions, predictions: Captions) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(references, predictions, verbose=0)
    rouge, _ = Rouge().compute_score(references, predictions)
    scores = {f"BLEU_{k}": float(score) for k, score in enumerate(bleu, start=1)}
    return scores | {"ROUGE_L": float(rouge)}


def _check_java(name: str) -> None:
    """Refuse a Java program that cannot run; SPICE's would fetch half of itself when it starts."""
    if shutil.which("java") is None:
        raise ConfigError(
            f"CaptionScore.java asks for {name}, a Java program, and there is no `java` here; "
            "install a Java runtime, or take it out."
        )
    jars = dict(METEOR=["meteor/meteor-1.5.jar"], SPICE=["spice/spice-1.0.jar"])
    jars["SPICE"] += [f"spice/lib/stanford-corenlp-3.6.0{end}.jar" for end in ("", "-models")]
    mend = dict(
        METEOR="install pycocoevalcap again",
        SPICE="`python -m pycocoevalcap.spice.get_stanford_models` fetches it",
    )
    for jar in jars[name]:
        if not (_package() / jar).is_file():
            raise ConfigError(
                f"CaptionScore.java asks for {name}, but {jar} is not in the folder of the package "
                f"pycocoevalcap; {mend[name]}. Or take it out."
            )


def _package() -> Path:
    """Return the folder of pycocoevalcap, a namespace without a file of its own."""
    spec = find_spec("pycocoevalcap")
    return Path(next(iter((spec and spec.submodule_search_locations) or [""])))


def _java_score(name: str, references: Captions, predictions: Captions) -> float:
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.spice.spice import Spice

    keys = {key: str(number) for number, key in enumerate(references)}  # SPICE's are texts
    numbered = {keys[key]: texts for key, texts in references.items()}
    said = {keys[key]: texts for key, texts in predictions.items()}
    score, _ = (Meteor if name == "METEOR" else Spice)().compute_score(numbered, said)
    return float(score)
