"""The commands that ask a trained model about photos: caption, ask, chat."""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

from tove.cli.ending import command
from tove.data.image_io import load_image

__all__ = ["ask", "caption", "chat"]


@command
def caption(args: argparse.Namespace) -> None:
    """Describe photos; see `tools/caption.py` for the arguments."""

    def answers(model: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a `TrainedModel`
        texts = model.caption(args.images, args.prompt)
        return [
            {"image": image, "caption": text}
            for image, text in zip(args.images, texts, strict=True)
        ]

    _use(args, answers, "caption")


@command
def ask(args: argparse.Namespace) -> None:
    """Answer a question about a photo; see `tools/ask.py` for the arguments."""

    def answers(model: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a `TrainedModel`
        if args.judge:
            (found,) = model.judge(args.image, args.question)
        else:
            (found,) = model.ask(args.image, args.question, args.answers)
        asked = {"image": args.image, "question": args.question}
        return [{**asked, "answer": found.text, "scores": dict(found.scores)}]

    _use(args, answers, "answer")


@command
def chat(args: argparse.Namespace) -> None:
    """Talk about a photo; see `tools/chat.py` for the arguments."""

    def answers(model: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a `TrainedModel`, or alike
        earlier: list[dict[str, str]] = []
        found = []
        for question in args.questions:
            answer = model.chat(args.image, question, earlier)
            earlier += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            found.append({"image": args.image, "question": question, "answer": answer})
        return found

    _use(args, answers, "answer", _talker)


def _trained(args: argparse.Namespace) -> Any:  # noqa: ANN401
    from tove.engine.load_trained import load

    return load(args.work_dir, args.detached, args.stage, args.device, args.dtype)


def _talker(args: argparse.Namespace) -> Any:  # noqa: ANN401
    """Load a run's model, or a Llava folder by transformers alone."""
    from tove.engine.stock_llava import StockLlava, is_llava_folder

    if is_llava_folder(args.work_dir):
        return StockLlava(args.work_dir, args.device, args.dtype)
    return _trained(args)


def _use(
    args: argparse.Namespace,
    answers: Callable[[Any], list[dict[str, Any]]],
    shown: str,
    load: Callable[[argparse.Namespace], Any] | None = None,
) -> None:
    """Load a trained model and print what it answers; what runs is told beside it.

    Args:
        args: the command line.
        answers: of the model, one dict for each image.
        shown: the entry that a reader wants.
        load: gives the model; a run's by default.
    """
    for image in args.images if "images" in args else [args.image]:
        load_image(image, 1)  # before a model is loaded, and answers are lost with this one's
    with contextlib.redirect_stdout(sys.stderr):  # logs; what is printed is the answer alone
        model = (load or _trained)(args)
        print(model, file=sys.stderr)
        found = answers(model)
    if args.json:
        about = {"stage": model.stage, "experts": list(model.experts)}
        print(json.dumps([{**entry, **about} for entry in found], indent=1, ensure_ascii=False))
        return
    for entry in found:
        print(f"{entry['image']}: {entry[shown]}")
        for text, score in sorted(entry.get("scores", {}).items(), key=lambda pair: -pair[1]):
            print(f"  {text}: {score:.3f}")
