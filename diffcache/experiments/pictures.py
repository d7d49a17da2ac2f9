"""Pictures of an image set and of its features: noised images over t, and a projection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffcache.analysis.noised_plot import draw_noised
from diffcache.analysis.projection import draw_projection, project, spread_rows
from diffcache.backbones import load_card
from diffcache.config import SPLITS, Pipeline
from diffcache.diffusion import sample_noise
from diffcache.errors import ConfigError, DependencyError
from diffcache.events import Notice, OnEvent, ignore
from diffcache.experiments.features import FeatureSet
from diffcache.experiments.opening import open_images
from diffcache.experiments.results import Result, results_folder
from diffcache.images import to_unit
from diffcache.setting import Setting

NOISED = (0, 30, 90, 200, 400, 700)
MOST_CLASSES = 6


def noised_images(
    pipeline: Pipeline, *, command: str, ts: Sequence[int] | None = None, on_event: OnEvent = ignore
) -> Result:
    """Draw the first test image of some classes at several time steps, with the noise its features are made with.

    Args:
        pipeline: names images and network; no weights are needed.
        command: what makes it again.
        ts: time steps; by default some from none to much.
        on_event: hears of notices.

    Raises:
        ConfigError: a network without noise.
        SettingError: a time step that it does not have.
        DependencyError: matplotlib is not installed.
    """
    import torch

    card = load_card(pipeline.backbone.card) if pipeline.backbone.imported is None else None
    if card is None or card.schedule is None:
        raise ConfigError(f"{pipeline.file}: noised images: this network takes no noise")
    steps = [card.schedule.check(t) for t in (ts or [t for t in NOISED if t < card.schedule.steps])]
    source = open_images(pipeline, on_event=on_event)["test"]
    first = [int(np.flatnonzero(source.labels == label)[0]) for label in np.unique(source.labels)[:MOST_CLASSES]]
    pixels = np.stack([card.preprocessing.apply(source.load(i).pixels, where=source.where(i)) for i in first])
    x0 = torch.from_numpy(to_unit(pixels))
    ids = [source.ids[i] for i in first]

    def at(t: int) -> np.ndarray:
        noise = sample_noise(ids, card.preprocessing.shape, seed=pipeline.extract.seed, t=t, draw=0)
        return np.asarray(card.schedule.q_sample(x0, t, noise=torch.from_numpy(noise)).numpy())  # type: ignore[union-attr]

    images = np.stack([at(t) for t in steps], axis=1)
    names = [source.class_names[int(source.labels[i])] for i in first]
    title = f"{pipeline.images.name}: what the network sees at time step t ({card.schedule.name} schedule)"
    kept = card.schedule.alphas_cumprod
    return Result(
        name="noised",
        title=title,
        command=command,
        images=pipeline.images.name,
        rows=tuple({"t": t, "signal": float(kept[t] ** 0.5), "noise": float((1 - kept[t]) ** 0.5)} for t in steps),
        figures=(draw_noised(images, steps, names, results_folder(pipeline), title=title),),
        facts={"ids": ids, "seed": pipeline.extract.seed},
    )


def projected(
    pipeline: Pipeline,
    features: FeatureSet,
    setting: Setting,
    *,
    command: str,
    methods: Sequence[str],
    on_event: OnEvent = ignore,
) -> Result:
    """Project the test features of a setting to two dimensions, draw them, and give their coordinates.

    Args:
        pipeline: names the results' folder.
        features: of the setting.
        setting: which.
        command: what makes it again.
        methods: ``pca``, ``tsne``; one whose library is missing is left out where another is there.
        on_event: hears of what is left out.

    Raises:
        DiffcacheError: as :func:`diffcache.analysis.projection.project` where no method can be used.
    """
    _, test = features.pair(setting)
    rows = spread_rows(~test.marked)
    values, labels = test[rows], np.asarray(test.labels)[rows]
    found: dict[str, np.ndarray] = {}
    figures = []
    for method in methods:
        try:
            found[method] = project(values, method=method)
        except DependencyError as error:
            if method == methods[-1] and not found:
                raise
            on_event(Notice(str(error)))
            continue
        how = "principal components" if method == "pca" else "t-SNE"
        title = f"{pipeline.images.name}, {features.backbone} {setting}: {how} of {len(rows):,} test images"
        figures.append(
            draw_projection(
                found[method], labels, test.class_names, results_folder(pipeline), method=method, title=title
            )
        )
    return Result(
        name="projection",
        title=f"{pipeline.images.name}: test features of {setting} in two dimensions",
        command=command,
        images=pipeline.images.name,
        rows=tuple(
            {
                "id": str(test.ids[row]),
                "class": test.class_names[label],
                **{f"{m}_{axis}": float(p[k][n]) for m, p in found.items() for n, axis in enumerate("xy")},
            }
            for k, (row, label) in enumerate(zip(rows.tolist(), labels.tolist(), strict=True))
        ),
        figures=tuple(figures),
        facts={"setting": str(setting), "recipe": features.stores[SPLITS[0]].fingerprint},
    )
