"""Keep the tokens of frozen networks on disk: `python tools/cache.py CONFIG`.

`mim run tove_plugins cache CONFIG` is the same. The folder is the config's model.token_cache.dir.
"""

import argparse
import sys

from tove.command_line import check_least, prepare_process


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Keep the tokens of frozen networks on disk.")
    parser.add_argument("config", help="path of the config file")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--dry-run", action="store_true", help="say how much room it takes; no weights are needed"
    )
    how.add_argument("--verify", action="store_true", help="check every byte that is there")
    how.add_argument("--copy-to", metavar="ADDRESS", help="such as s3://bucket/tokens, afterwards")
    parser.add_argument(
        "--experts", nargs="+", metavar="SLOT", help="these only; clip is the encoder"
    )
    parser.add_argument("--images", type=int, help="with --dry-run: so many, the data is not there")
    parser.add_argument("--batch-size", type=int, help="images at once (default: the config's)")
    parser.add_argument(
        "--data-licence", default="not told", metavar="NAME", help="of the images, for the card"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings that override the config, such as model.token_cache.codec=bf16",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args(argv)
    check_least(parser, args, images=1, batch_size=1)
    if args.images is not None and not args.dry_run:
        parser.error("--images needs --dry-run: it stands for data that is not there")
    return args


def main() -> None:
    """Parse, import the engine, extract."""
    args = parse_args()
    prepare_process()
    from tove.cli import cache

    sys.exit(cache(args))


if __name__ == "__main__":
    main()
