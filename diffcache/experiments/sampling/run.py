"""Samples of a card's network, written group by group, so that a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffcache import __version__
from diffcache.backbones import Card, open_generator
from diffcache.cache.files.lock import command_line
from diffcache.compute import device_facts
from diffcache.errors import ConfigError
from diffcache.events import Notice, OnEvent, Progress, ignore
from diffcache.experiments.sampling import files
from diffcache.experiments.sampling.conditions import classes_for, low_res_for
from diffcache.experiments.sampling.job import Job, default_steps, sampler_for
from diffcache.experiments.sampling.parts import Parts, open_parts, parts_folder, refuse_other, was_begun

USUAL = 16
"""Images, and images of a group, where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Samples that are written.

    Attributes:
        out: the ``.npz``.
        grid: a picture of the first ones.
        record: the JSON beside the ``.npz``: what made it.
        shape: of ``arr_0``: (n, height, width, channels).
        facts: what the record holds.
        computed: images that this call computed; those that were there before are not among them.
    """

    out: Path
    grid: Path
    record: Path
    shape: tuple[int, int, int, int]
    facts: Mapping[str, Any]
    computed: int


def sample_images(
    card: str | Path | Card,
    weights: str | Path | None,
    *,
    out: str | Path,
    count: int | None = None,
    steps: str | None = None,
    ddim: bool = False,
    eta: float = 0.0,
    classes: Sequence[int] | None = None,
    low_res: str | Path | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    grid: str | Path | None = None,
    keep_grey: bool = False,
    command: str | None = None,
    on_event: OnEvent = ignore,
) -> Sampled:
    """Generate images with a card's network.

    All random numbers follow from (seed, sample, step), and groups are always whole, so that sample n has the same
    bytes however many there are and however often the run was stopped. Another batch size (or device, or number of
    threads) can move last bits of the network's arithmetic, and with them a byte here and there by one.

    Args:
        card, weights: the network; see :func:`diffcache.backbones.open_generator`.
        out: where the images go, ``.npz``: ``arr_0`` uint8 (n, height, width, 3), and ``arr_1`` int64 (n,), the
            classes of a class-conditional network. That is what the reference's evaluation suite reads.
        count: how many; by default 16, or as many as there are to enlarge.
        steps: respacing: ``"250"``, ``"ddim25"``, ``"10,20,30"``; by default 250 steps, or all where there are fewer.
        ddim: whether to sample by DDIM; a respacing ``"ddim..."`` does so by itself.
        eta: of DDIM.
        classes: sample n is of class ``classes[n]``, and goes round; by default those of ``low_res``, or random ones.
        low_res: ``.npz`` of images that a super-resolution network is to enlarge; goes round where they are fewer.
        seed: of all random numbers.
        batch_size: images computed together; by default 16, or ``count`` where that is less. What was begun goes on
            with its own.
        device, precision: where and in what the network computes.
        grid: picture of the first 64 images at most, ``.png``; by default beside ``out``.
        keep_grey: whether images of one channel keep that; otherwise it is repeated to three, which the suite wants.
        command: what makes it again, for the record; by default that of this process.
        on_event: hears of progress, in steps of groups.

    Raises:
        ConfigError: a card that cannot generate, an argument that does not fit, or files of another request there.
        MissingError: no such card file, weights or images to enlarge.
        ImageError: a file of images to enlarge that holds something else.
        CacheError: somebody else is writing the same output.
        StorageOverflowError: an image is not finite.
        DeviceError: no such device, or not enough memory on it.
        DiskFullError: no room.
    """
    out = _named(out, ".npz", option="--out")
    picture = out.with_suffix(".png") if grid is None else _named(grid, ".png", option="--grid")
    generator = open_generator(card, weights, device=device, precision=precision)
    config, name = generator.config, generator.card.name
    enlarged = low_res_for(config, None if low_res is None else Path(low_res), card=name)
    steps = default_steps(generator.schedule.steps) if steps is None else steps.replace(" ", "")
    job = Job(
        generator=generator,
        steps=steps,
        sampler=sampler_for(steps, ddim=ddim, eta=eta),
        seed=seed,
        classes=classes_for(config, classes, low_res=enlarged, seed=seed, card=name),
        low_res=enlarged,
    )
    job.spaced  # noqa: B018 - refuses steps that there are not
    count = _number(count, default=USUAL if enlarged is None else len(enlarged.pixels), what="count")
    group_size = _number(batch_size, default=min(USUAL, count), what="batch size")
    channels, height, width = config.image_shape
    shape = (count, height, width, 3 if channels == 1 and not keep_grey else channels)
    request = job.request()

    facts, computed = _finished(out, request, shape), 0
    if facts is None or parts_folder(out).exists():
        with open_parts(
            out,
            request,
            group_size=group_size,
            shape=(height, width, channels),
            provenance={"diffcache": __version__, "numpy": np.__version__, **device_facts(generator.device)},
        ) as parts:
            facts = _finished(out, request, shape)  # whom we did not wait for may just have done it
            if facts is None:
                if batch_size not in (None, parts.group_size):
                    on_event(Notice(f"{out}: goes on in groups of {parts.group_size}, as it was begun"))
                computed = _compute(job, parts, count, on_event)
                facts = _write(job, parts, out, shape, request=request, command=command or command_line())
                files.draw_grid(files.first_images(out, files.MOST_IN_GRID), picture)
    if not computed:
        on_event(Notice(f"{out}: nothing was left to compute"))
    if not picture.exists():
        files.draw_grid(files.first_images(out, files.MOST_IN_GRID), picture)
    return Sampled(out=out, grid=picture, record=files.record_file(out), shape=shape, facts=facts, computed=computed)


def _named(path: str | Path, ending: str, *, option: str) -> Path:
    path = Path(path)
    if path.suffix != ending:
        raise ConfigError(f"{option}: expected a file name that ends in {ending}, got {str(path)!r}")
    return path


def _number(asked: int | None, *, default: int, what: str) -> int:
    if asked is None:
        return default
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise ConfigError(f"sampling: {what} must be a whole number of at least 1, got {asked!r}")
    return asked


def _finished(out: Path, request: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The record of the same images, where they are written; None where they are not.

    Raises:
        ConfigError: something else is there, which is not to be lost.
    """
    if not out.exists():
        return None
    facts = files.read_record(out)
    if facts is not None and facts.get("request") == request and facts.get("shape") == list(shape):
        return facts
    if was_begun(out):  # killed after it was written, and before its record was
        return None
    remedy = "remove that file"
    if facts is None or not isinstance(facts.get("request"), dict):
        raise ConfigError(f"{out}: is there, and nothing tells what it was made of; {remedy}, or name another --out")
    refuse_other(facts["request"], request, where=f"{out}: was made", remedy=remedy)
    raise ConfigError(
        f"{out}: holds images {tuple(facts.get('shape', ()))}, asked for are {shape}; {remedy}, or name another --out"
    )


def _compute(job: Job, parts: Parts, count: int, on_event: OnEvent) -> int:
    """Compute the groups that are missing; how many images that were."""
    size, steps = parts.group_size, len(job.spaced.steps)
    groups = range(-(-count // size))
    missing = [group for group in groups if parts.read(group) is None]
    if len(missing) < len(groups):
        there = min(count, (len(groups) - len(missing)) * size)
        on_event(Notice(f"{parts.folder}: goes on; {there:,} of {count:,} images are there"))
    task = f"sample ({job.generator.card.name})"
    done, total = (len(groups) - len(missing)) * steps, len(groups) * steps

    def stepped() -> None:
        nonlocal done
        done += 1
        on_event(Progress(task, done, total, unit="steps"))

    if missing:
        on_event(Progress(task, done, total, unit="steps"))
    for group in missing:
        # The last one too is whole: what is too many in it is what a longer run would begin with.
        parts.write(group, job.compute(range(group * size, (group + 1) * size), stepped))
    return sum(min(size, count - group * size) for group in missing)


def _write(
    job: Job,
    parts: Parts,
    out: Path,
    shape: tuple[int, int, int, int],
    *,
    request: Mapping[str, Any],
    command: str,
) -> dict[str, Any]:
    """Write the images, then the record of them, which is given back."""
    labels = None if job.classes is None else job.classes.of(range(shape[0]))
    digest = files.write_npz(out, _pieces(parts, shape), shape=shape, labels=labels, tmp=parts.folder)
    generator = job.generator
    facts = {
        "card": generator.card.name,
        "title": generator.card.title,
        "weights_file": None if generator.weights is None else generator.weights.name,
        "command": command,
        "shape": list(shape),
        "sha256": digest,
        "request": request,
        "visited": list(job.spaced.steps),
        "group_size": parts.group_size,
        "provenance": list(parts.provenance),
    }
    files.write_record(out, facts)
    return facts


def _pieces(parts: Parts, shape: tuple[int, int, int, int]) -> Iterator[NDArray[np.uint8]]:
    """The images of all groups in their order, no more than wanted, grey repeated where three channels are wanted."""
    count, *_, channels = shape
    for group in range(-(-count // parts.group_size)):
        pixels = parts.read(group)
        assert pixels is not None  # it has just been written, or was found
        pixels = pixels[: count - group * parts.group_size]
        yield np.broadcast_to(pixels, (*pixels.shape[:3], channels))
