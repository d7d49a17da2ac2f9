"""From a run to the stores its features came from, and back. No torch here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diffcache.errors import DiffcacheError, HeadError
from diffcache.heads.runs.run import RUN_JSON, Run, load_run
from diffcache.setting import Setting


@dataclass(frozen=True)
class Source:
    """What one side of a run's features came from.

    Attributes:
        role: ``train`` or ``test``.
        images, split, fingerprint: the store's key.
        settings: the stored settings, one a draw; where the run's own was averaged from a larger pool, that one.
    """

    role: str
    images: str
    split: str
    fingerprint: str
    settings: tuple[Setting, ...]

    def is_of(self, *, images: str, split: str, fingerprint: str) -> bool:
        """Whether it is the store of that key."""
        return (self.images, self.split, self.fingerprint) == (images, split, fingerprint)


def sources(run: Run) -> tuple[Source, ...]:
    """Where a run's features came from: training, then test; of a fusion head one for each store.

    Raises:
        HeadError: its record does not say so.
    """
    try:
        found = []
        for role in ("train", "test"):
            said = run.record["features"][role]
            if "fused" in run.record:
                found += _fused_sources(run, role)
                continue
            images, split, fingerprint = (said[name] for name in ("images", "split", "fingerprint"))
            if not all(isinstance(text, str) for text in (images, split, fingerprint)):
                raise TypeError("a name is no text")
            names = [said.get("derived_from", run.setting)]
            draws = run.record.get("draws") if role == "train" else None
            if draws:
                stored = draws.get("derived_from") or [None] * len(draws["settings"])
                names = [larger or own for own, larger in zip(draws["settings"], stored, strict=True)]
            settings = tuple(dict.fromkeys(map(Setting.parse, names)))
            found.append(Source(role, images, split, fingerprint, settings))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise HeadError(
            f"{run.path / RUN_JSON}: damaged: it does not say which features it is of ({error!r:.80}); delete the "
            f"folder to train it again"
        ) from None
    return tuple(found)


def _fused_sources(run: Run, role: str) -> list[Source]:
    """The stores of a fusion head's features, one or several of a split; may raise nearly anything."""
    said = run.record["features"][role]
    draws = (run.record.get("draws") or {}).get("fused", []) if role == "train" else []
    parts = [part for draw in draws for part in draw]
    by_store: dict[str, list[Setting]] = {}
    for part in parts or said["fused"]:
        by_store.setdefault(part["fingerprint"], []).append(Setting.parse(part.get("derived_from", part["setting"])))
    if not all(isinstance(text, str) for text in (said["images"], said["split"], *by_store)):
        raise TypeError("a name is no text")
    return [
        Source(role, said["images"], said["split"], fingerprint, tuple(dict.fromkeys(settings)))
        for fingerprint, settings in by_store.items()
    ]


def read_runs(root: str | Path) -> tuple[tuple[Run, ...], tuple[str, ...]]:
    """Every finished run under a folder of runs that can be read, and one line for each that cannot.

    Runs come by image set, kind of head, setting and id; a folder that is not there holds none.
    """
    found: list[Run] = []
    damaged: list[str] = []
    for path in sorted(Path(root).glob(f"*/*/{RUN_JSON}")):
        try:
            run = load_run(path.parent)
            _check(run)
        except DiffcacheError as error:
            damaged.append(str(error))
        except OSError as error:
            damaged.append(f"{path}: cannot be read: {error.strerror}")
        else:
            found.append(run)
    return tuple(sorted(found, key=lambda run: (str(run.images), run.kind, run.setting, run.id))), tuple(damaged)


def _check(run: Run) -> None:
    """What listings show of a run is there, and is what it should be."""
    sources(run)
    try:
        shares = (run.top1.low, run.top1.value, run.top1.high)
        sane = isinstance(run.images + run.backbone, str) and all(0 <= share <= 1 for share in shares)
    except (KeyError, TypeError):
        sane = False
    if not sane:
        raise HeadError(
            f"{run.path / RUN_JSON}: damaged: its names or its accuracy are none; delete the folder to train it again"
        )


def runs_of(
    runs: Iterable[Run],
    *,
    images: str,
    split: str,
    fingerprint: str,
    settings: Iterable[Setting] | None = None,
) -> list[Run]:
    """The runs whose features, or some of them, came from one store.

    Args:
        runs: of :func:`read_runs`.
        images, split, fingerprint: the store's key.
        settings: only those made from these settings of it.
    """
    wanted = None if settings is None else frozenset(settings)
    return [
        run
        for run in runs
        if any(
            source.is_of(images=images, split=split, fingerprint=fingerprint)
            and (wanted is None or not wanted.isdisjoint(source.settings))
            for source in sources(run)
        )
    ]
