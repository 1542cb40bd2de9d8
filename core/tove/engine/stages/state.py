"""What a stage leaves in its folder, so that a later call knows what is finished, and how.

config.json   the settings that the stage's outcome depends on, flat, and the digest of the model
              that it takes from another stage; written when it starts
done.json     the same settings' fingerprint, the seconds it took, and the digests of what it left;
              written when it ends, removed first
rows.json     its rows
earlier.pth   the model that it ended with before the experts changed; what it goes on from
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tove.atomic_io import write_text
from tove.config.overlay import flatten
from tove.data.annotations import read_json
from tove.engine.checkpoint import resumable_checkpoint, shard_of, write_checkpoint
from tove.engine.digests import digests_of, lost_files
from tove.engine.rows import WRITTEN, read_rows, write_rows
from tove.errors import CheckpointError, ConfigError
from tove_plugins import sha256_of

__all__ = [
    "EARLIER",
    "StageRecord",
]

EARLIER = "earlier.pth"
_MODEL, _SETTINGS = "model.pth", "config.json"
_CHECKPOINT = "checkpoint"  # the setting that the user's --checkpoint is noted as
_SOURCE_MODEL = "source_model"  # the digest of the model that another stage had left for this one

_DONE = "done.json"
# The mark of the end and the settings go first: a crash among them leaves what has not begun.
_OWN_FILES = (
    _DONE,
    _SETTINGS,
    "last_checkpoint",
    "iter_*.pth",
    "iter_*.shard_*",
    _MODEL,
    "slim_*.pth",
    "rows.json",
    "loss.jsonl",
    "images_seen.txt",
    "ranking.json",
    "contribution.json",
    "part_times.jsonl",
    "items/*.json",
    EARLIER,
)
_SPARE = "slim_*.pth"  # may be deleted once the stage has ended: no stage reads them
_LEFT = (
    _MODEL,
    "rows.json",
    "loss.jsonl",
    "images_seen.txt",
    "ranking.json",
    "contribution.json",
    "items/*.json",
)

_EXPERTS = re.compile(r"(.*\.)?model\.(experts|detached)(\..*)?|slots(\..*)?")


class StageRecord:
    """The record of one stage.

    Args:
        folder: the stage's folder.
        name: the stage's name.
        settings: what its outcome depends on, nested.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.name = name
        # Through JSON once, so that what is compared later is what was stored.
        self.settings = json.loads(json.dumps(flatten(settings), sort_keys=True))

    @property
    def fingerprint(self) -> str:
        """Digest of the settings."""
        return _digest(self.settings)

    @property
    def finished(self) -> bool:
        """Whether the stage ended in this folder."""
        return (self.folder / _DONE).exists()

    @property
    def started(self) -> bool:
        """Whether the stage began in this folder."""
        return (self.folder / _SETTINGS).exists()

    def check(self, other_experts: bool = True, other_checkpoint: bool = False) -> bool:
        """Compare the settings with those that the stage began with.

        Args:
            other_experts: whether it may have begun with other experts.
            other_checkpoint: whether it may have begun from another checkpoint of the user's.

        Returns:
            Whether there are other experts now; all else is as it was.

        Raises:
            ConfigError: something else differs.
        """
        then = self._began_with()
        then.pop(_SOURCE_MODEL, None)
        if other_checkpoint:
            then.pop(_CHECKPOINT, None)
        changed = [
            key
            for key in sorted(then.keys() | self.settings.keys())
            if then.get(key) != self.settings.get(key)
        ]
        others = [key for key in changed if not (other_experts and _EXPERTS.fullmatch(key))]
        if not others:
            return bool(changed)
        state = "finished" if self.finished else "began"
        shown = [f"{key}: {then.get(key)!r} -> {self.settings.get(key)!r}" for key in others[:4]]
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        raise ConfigError(
            f"Stage '{self.name}' in {self.folder} {state} with other settings "
            f"({'; '.join(shown)}{more}); take another --work-dir, restore the "
            f"settings ({self.folder.parent / 'config.py'} has them, as a config to run), or run "
            "without --resume and --stage to begin again."
        )

    def _began_with(self) -> dict[str, Any]:
        began: dict[str, Any] = read_json(str(self.folder / _SETTINGS), WRITTEN, hint=dict)
        return began

    def _ended_with(self) -> dict[str, Any]:
        done: dict[str, Any] = read_json(str(self.folder / _DONE), WRITTEN, hint=dict)
        return done

    def check_whole(self) -> None:
        """Check that what a finished stage left is still there and as it was.

        Raises:
            CheckpointError: a file is gone or damaged.
        """
        done, began = self._ended_with(), self._began_with()
        began.pop(_SOURCE_MODEL, None)
        # Those of now as well: `keep` may have been killed between the two files.
        fits = done.get("fingerprint") in (_digest(began), self.fingerprint)
        lost = [] if fits else [f"{self.folder / _SETTINGS} has changed"]
        left = done.get("digests", {"rows.json": ""})  # an older version noted none
        spared = {n for n in left if fnmatch(n, _SPARE) and not (self.folder / n).exists()}
        lost += lost_files(self.folder, {n: d for n, d in left.items() if n not in spared})
        if lost:
            raise CheckpointError(
                f"Stage '{self.name}' has finished, but not all that it left is whole: "
                f"{', '.join(lost[:4])}. Put it back; or delete {self.folder / _DONE} and resume, "
                "and the stage goes on from its last checkpoint, or begins again without one."
            )

    def is_of_another_model(self, source: Path) -> bool:
        """Tell whether the stage began from another model than another stage has left by now.

        Args:
            source: that stage's model; one that is not there tells nothing.
        """
        then = self._began_with().get(_SOURCE_MODEL)
        return then is not None and source.exists() and then != sha256_of(source)

    def begin(self, afresh: bool, source: Path | None = None) -> None:
        """Note the settings; a fresh start removes what an earlier run of the stage left.

        Args:
            afresh: whether it starts anew.
            source: the model of another stage that it takes, if it does.
        """
        if afresh:
            self.clear()
        noted = dict(self.settings)
        if source is not None and source.exists():
            noted[_SOURCE_MODEL] = sha256_of(source)
        write_text(self.folder / _SETTINGS, json.dumps(noted, indent=1, sort_keys=True))

    def keep(self, source: Path | None = None) -> None:
        """Note the settings of now for a stage whose outcome they do not change."""
        if self.finished:
            self._write_done({**self._ended_with(), "fingerprint": self.fingerprint})
        self.begin(afresh=False, source=source)

    def clear(self) -> None:
        """Remove what an earlier run of the stage left."""
        self._remove(_OWN_FILES)

    def set_aside(self) -> None:
        """Make what the stage has learned the model that it goes on from, and open it again.

        That is its model where it had finished, and the last checkpoint of an interrupted training.
        """
        self._remove([_DONE])
        learned, found = self.folder / _MODEL, None
        if not learned.exists():
            found = resumable_checkpoint(self.folder)
            learned = found[0] if found else self.folder / EARLIER
        # Before and after the renaming one call finds what the one before it had found.
        for path in self.folder.glob("iter_*.pth"):
            if path != learned:
                path.unlink()
        if found and shard_of(learned, 1).exists():  # a file for each process, and no longer
            write_checkpoint(self.folder / EARLIER, found[1])
        elif learned.exists():
            os.replace(learned, self.folder / EARLIER)
        kept = (_SETTINGS, EARLIER, "images_seen.txt")  # what is learned was learned from these
        self._remove(name for name in _OWN_FILES if name not in kept)

    def _remove(self, patterns: Iterable[str]) -> None:
        for pattern in patterns:
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def finish(
        self, rows: Sequence[Mapping[str, Any]], seconds: float, files: Mapping[Path, str]
    ) -> None:
        """Store the rows and mark the stage as finished, in that order.

        Args:
            rows: of the stage.
            seconds: that it took.
            files: that the user is told about, with what each is.
        """
        write_rows(self.folder / "rows.json", rows)
        left = [path for pattern in _LEFT for path in self.folder.glob(pattern)]
        done = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "seconds": round(seconds, 1),
            "files": {os.path.relpath(path, self.folder): what for path, what in files.items()},
            "digests": digests_of(self.folder, [*left, *files]),
        }
        self._write_done(done)

    def _write_done(self, done: Mapping[str, Any]) -> None:
        write_text(self.folder / _DONE, json.dumps(done, indent=1) + "\n")

    def files(self) -> dict[Path, str]:
        """Give the files of a finished stage that the user is told about."""
        told = self._ended_with().get("files", {})
        listed = {Path(os.path.normpath(self.folder / p)): w for p, w in told.items()}
        return {path: what for path, what in listed.items() if path.exists()}

    def rows(self) -> list[dict[str, Any]]:
        """Give the rows of a finished stage."""
        return read_rows(self.folder / "rows.json")


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
