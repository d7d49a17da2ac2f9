"""Run folders: one training and everything to know, use and compare it afterwards.

RUNS/<images>/<kind>-<setting>-<hash>/
    run.json           what was trained on what, how it went; written last: with it the run is complete
    metrics.jsonl      a line an epoch of a head (``EpochRecord``)
    best.safetensors   weights of the best epoch (``head.*``), ``mean`` and ``deviation`` of the features
    predictions.npz    the test rows' ids, labels, logits, predicted; the validation rows' predicted;
                       of a sweep which test rows each head is right on
    state.pt           where training stands, to go on from

A run of a sweep is that of the head which validation chose; ``run.json`` and ``metrics.jsonl`` tell of all of them.
In that of a fusion head ``fused`` names all its settings and the shapes of their maps.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffcache.config import SWEPT, HeadConfig, head_config, in_short
from diffcache.errors import HeadError, MissingError
from diffcache.heads.evaluation import PairedDifference, Proportion, paired_difference
from diffcache.recipe import canonical_json
from diffcache.setting import Setting

if TYPE_CHECKING:
    from diffcache.heads.data.standardize import StandardizedHead

RUN_FORMAT = 1
"""Raised when the files of a run come to mean something else."""

RUN_JSON, METRICS, WEIGHTS, PREDICTIONS, STATE = (
    "run.json",
    "metrics.jsonl",
    "best.safetensors",
    "predictions.npz",
    "state.pt",
)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run said.

    Attributes:
        ids: the test samples' ids, str, shape (rows,); marked rows are left out of all of these.
        labels: their classes, int64, shape (rows,).
        logits: float32, shape (rows, classes).
        predicted: the class with the largest logit, int64, shape (rows,).
        validation_rows: rows of the training split that were held out, int64, shape (v,).
        validation_labels, validation_predicted: theirs, int64, shape (v,).
        sweep_correct: whether each head of the sweep is right on each test row, bool, shape (heads, rows), those that
            diverged never; None of a head that was trained alone, and of runs that did not record it.
    """

    ids: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    predicted: np.ndarray
    validation_rows: np.ndarray
    validation_labels: np.ndarray
    validation_predicted: np.ndarray
    sweep_correct: np.ndarray | None = None

    @property
    def correct(self) -> np.ndarray:
        """Whether each test row is right, bool, shape (rows,)."""
        return self.predicted == self.labels


@dataclass(frozen=True)
class Run:
    """A finished training, read from its folder.

    Attributes:
        path: the run folder.
        record: all of ``run.json``, as plain values.
        reused: whether it was found finished and not trained again.
    """

    path: Path
    record: Mapping[str, Any] = field(repr=False)
    reused: bool = field(default=False, compare=False)

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def kind(self) -> str:
        """Kind of head."""
        return self.record["head"]["kind"]

    @property
    def images(self) -> str:
        """Name of the image set."""
        return self.record["images"]

    @property
    def backbone(self) -> str:
        """Name of the network the features are of."""
        return self.record["backbone"]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order."""
        return tuple(self.record["class_names"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a row of features."""
        channels, height, width = self.record["shape"]
        return channels, height, width

    @property
    def values(self) -> int:
        """Numbers in a row of features."""
        return math.prod(self.shape)

    @property
    def parts(self) -> tuple[tuple[int, int, int], ...]:
        """(C, H, W) of each setting's map; a row of a fusion head's features holds their values one after the other."""
        if "fused" not in self.record:
            return (self.shape,)
        return tuple((channels, height, width) for channels, height, width in self.record["fused"]["shapes"])

    @cached_property
    def setting(self) -> Setting:
        """Which features; of several the first."""
        return Setting.parse(self.record["setting"])

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Which features: one setting, or those that a fusion head joins, in order."""
        if "fused" not in self.record:
            return (self.setting,)
        return tuple(map(Setting.parse, self.record["fused"]["settings"]))

    @property
    def place(self) -> str:
        """The setting as text, or all of them in short: ``t10,30/b6,7/pool4``."""
        return in_short(self.settings)

    @cached_property
    def config(self) -> HeadConfig:
        """How the head was made and trained."""
        values = {name: value for name, value in self.record["head"].items() if name != "kind"}
        return head_config(self.kind, values, where=str(self.path / RUN_JSON))

    @property
    def top1(self) -> Proportion:
        """Share of test rows that are right."""
        return Proportion(**self.record["result"]["top1"])

    @property
    def top5(self) -> Proportion | None:
        """Share of test rows whose class is among the five likeliest; None for ten classes or fewer."""
        values = self.record["result"]["top5"]
        return None if values is None else Proportion(**values)

    @property
    def validation_top1(self) -> float:
        """Share of validation rows that are right at the best epoch."""
        return self.record["result"]["validation_top1"]

    @property
    def validation_loss(self) -> float:
        """Mean cross entropy of the validation rows at the best epoch."""
        return self.record["result"]["validation_loss"]

    @property
    def best_epoch(self) -> int:
        """The chosen epoch, from 1."""
        return self.record["result"]["best_epoch"]

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return self.record["parameters"]

    @property
    def seconds(self) -> float:
        """Time of statistics, epochs and evaluation, over all the times it was gone on with."""
        return self.record["seconds"]

    @property
    def sweep(self) -> tuple[Mapping[str, Any], ...]:
        """Every head of the sweep this one was chosen from, in its order; none where it was trained alone.

        Of each: the swept fields; ``validation_top1``, ``validation_loss``, ``train_loss``, ``best_epoch``, ``epochs``
        and ``test_top1``; or ``failed``, why it has no result. The choice was made before the test split was read.
        """
        return tuple(self.record["sweep"]["heads"]) if "sweep" in self.record else ()

    @property
    def chosen(self) -> Mapping[str, float]:
        """The values that validation chose of the fields that were swept."""
        if "sweep" not in self.record:
            return {}
        sweep = self.record["sweep"]
        return {name: sweep["heads"][sweep["chosen"]][name] for name in sweep["fields"]}

    def metrics(self, *, member: int | None = None) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` of one head, one dict an epoch.

        Args:
            member: number of a head of the sweep; by default the one that was chosen.
        """
        wanted = self.record.get("sweep", {}).get("chosen", 0) if member is None else member
        lines = (self.path / METRICS).read_text(encoding="utf-8").splitlines()
        return [line for line in map(json.loads, lines) if line.get("member", 0) == wanted]

    def predictions(self) -> Predictions:
        """What the head said of test and validation rows.

        Raises:
            HeadError: the file is damaged.
        """
        try:
            with np.load(self.path / PREDICTIONS, allow_pickle=False) as arrays:
                return Predictions(**{name: arrays[name] for name in arrays.files})
        except Exception as error:  # of a damaged file NumPy raises nearly anything
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise HeadError(
                f"{self.path / PREDICTIONS}: damaged ({reason}); delete the folder to train it again"
            ) from None

    def head(self) -> StandardizedHead:
        """The trained head on the CPU in evaluation mode: features as stored (n, C, H, W) to logits (n, classes).

        A fusion head takes a list of maps, those of each of :attr:`settings` in order.
        """
        from diffcache.heads.runs.weights import read_weights

        return read_weights(
            self.path / WEIGHTS,
            self.config,
            shape=self.shape,
            classes=len(self.class_names),
            where=self.place,
            parts=self.parts,
        )

    def difference(self, other: Run, *, only_common: bool = False) -> PairedDifference:
        """This run's test accuracy minus another's, on the same samples, with a 95 % interval.

        Args:
            other: another run.
            only_common: whether samples that only one of them was tested on are left out, and not refused: rows
                that are marked in one store may be usable in another.

        Raises:
            HeadError: the two were tested on different samples.
        """
        a, b = self.predictions(), other.predictions()
        return paired_difference(a.correct, b.correct, ids_a=a.ids, ids_b=b.ids, only_common=only_common)


def run_id(kind: str, setting: Setting | str, identity: Mapping[str, Any]) -> str:
    """A folder's name: head, setting, and 12 digits of the hash of all that decides the result.

    A fusion head's settings are too many for a name: ``setting`` is then how many there are, ``8-settings``.
    """
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
    return f"{kind}-{str(setting).replace('/', '-')}-{digest[:12]}"


def is_complete(path: Path) -> bool:
    """Whether the folder holds a finished run."""
    return (path / RUN_JSON).is_file()


def load_run(path: str | Path, *, reused: bool = False) -> Run:
    """A finished run from its folder.

    Raises:
        MissingError: no such folder, or an unfinished run.
        HeadError: a run of another version of diffcache, or one whose files are damaged or gone.
    """
    path = Path(path)
    if not is_complete(path):
        if (path / STATE).is_file():
            raise MissingError(f"{path}: this run is not finished; train the same head again to go on with it")
        raise MissingError(f"{path}: no run here ({RUN_JSON} is missing)")
    try:
        record = json.loads((path / RUN_JSON).read_text(encoding="utf-8"))
        version = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HeadError(
            f"{path / RUN_JSON}: not the record of a run ({error}); delete the folder to train it again"
        ) from None
    if version != RUN_FORMAT:
        raise HeadError(
            f"{path}: a run of another version of diffcache (format {version}, this one reads {RUN_FORMAT}); "
            f"read it with that version, or delete the folder to train it again"
        )
    for name in (METRICS, WEIGHTS, PREDICTIONS):
        if not (path / name).is_file():
            raise HeadError(f"{path}: {name} is gone from a finished run; delete the folder to train it again")
    run = Run(path=path, record=record, reused=reused)
    try:
        _check(run)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise HeadError(f"{path / RUN_JSON}: damaged ({error}); delete the folder to train it again") from None
    return run


def _check(run: Run) -> None:
    """Whether what a run says of itself can be used; raises nearly anything where not."""
    _ = run.setting, run.config, run.shape
    if len(run.parts) != len(run.settings) or (run.kind == "fusion") != (len(run.parts) > 1):
        raise ValueError("its settings are not those of its kind of head")
    if "sweep" in run.record:
        _check_sweep(run)
    shares = [share for proportion in (run.top1, run.top5) if proportion for share in asdict(proportion).values()]
    numbers = (*shares, run.parameters, run.validation_top1, run.validation_loss, run.best_epoch, run.seconds)
    if not all(isinstance(text, str) for text in (run.kind, run.images, run.backbone, *run.class_names)):
        raise TypeError("a name is no text")
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise TypeError("a result is no number")


def _check_sweep(run: Run) -> None:
    sweep, chosen = run.record["sweep"], run.record["sweep"]["chosen"]
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < len(sweep["heads"]):
        raise ValueError("the sweep has no head of the chosen number")
    if not sweep["fields"] or not set(sweep["fields"]) <= set(SWEPT):
        raise ValueError("the sweep's fields are none")
    if any(value != getattr(run.config, name) for name, value in run.chosen.items()):
        raise ValueError("what the sweep chose is not the head's")


def find_runs(root: str | Path) -> tuple[Run, ...]:
    """Every finished run under a folder of runs, by image set, kind, setting and id.

    Unfinished ones are left out; a folder that is not there holds none.

    Raises:
        HeadError: a run that cannot be read; see :func:`load_run`.
    """
    found = [load_run(path.parent) for path in Path(root).glob(f"*/*/{RUN_JSON}")]
    return tuple(sorted(found, key=lambda run: (run.images, run.kind, run.setting, run.id)))


def best_run(runs: Sequence[Run]) -> Run:
    """The run to choose, by validation alone: accuracy, then the lower loss, then the smaller setting.

    Raises:
        HeadError: no runs, or runs with other validation rows, whose accuracies do not compare.
    """
    if not runs:
        raise HeadError("choosing the best run: expected at least one, got none; train a head first")
    splits = {canonical_json({"validation": run.record["validation"], "images": run.images}) for run in runs}
    if len(splits) > 1:
        raise HeadError(
            f"choosing the best run: expected one image set and one validation split, got {len(splits)} "
            f"({'; '.join(sorted(splits)[:2])}); choose among runs with the same split_seed and validation"
        )
    return min(runs, key=lambda run: (-run.validation_top1, run.validation_loss, run.setting, run.id))
