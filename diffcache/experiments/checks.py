"""What can be known of a pipeline's heads before any work is done for them."""

from __future__ import annotations

from diffcache.backbones import check_setting, load_card
from diffcache.backbones.blocks import card_blocks
from diffcache.cache.exchange.importing import IMPORTED
from diffcache.config import KINDS, SPLITS, Pipeline, in_short
from diffcache.errors import ConfigError, HeadError, SettingError
from diffcache.experiments.needs import evaluated, head_settings
from diffcache.heads import stratified_split
from diffcache.heads.kinds import kind_of
from diffcache.heads.models import check_fit, fits
from diffcache.heads.runs.tensorboard import require_tensorboard
from diffcache.images import ImageSource


def check_heads(pipeline: Pipeline) -> None:
    """Refuse a pipeline whose heads could not be trained on its settings.

    Raises:
        ConfigError: it names no heads.
        SettingError: a setting that the backbone does not have, or at another draw than heads are evaluated on.
        HeadError: a head that does not fit one of its settings.
        DependencyError: event files are asked for, and TensorBoard is not installed.
    """
    if not pipeline.heads.heads:
        raise ConfigError(f"{pipeline.file}: no heads; add a table such as [heads.linear]")
    if pipeline.heads.tensorboard:
        require_tensorboard()
    if pipeline.backbone.imported is not None:
        for setting in head_settings(pipeline):
            if setting != IMPORTED:
                raise SettingError(f"{setting}: imported features have the one setting {IMPORTED}")
        return  # what shape they have, only their store knows
    card = load_card(pipeline.backbone.card)
    blocks = card_blocks(card)
    for setting in head_settings(pipeline):
        check_setting(setting, card, blocks)
    for sweep in pipeline.heads.heads:
        head = sweep.heads[0]  # whether a head fits does not depend on what is swept
        settings = sorted(evaluated(pipeline)) if isinstance(head.settings, str) else head.settings
        shapes = {setting: blocks[setting.b - 1].pooled_shape(setting.pool) for setting in settings}
        if KINDS[head.kind].several:
            check_fit(head, parts=list(shapes.values()), where=in_short(shapes))
            continue
        if head.settings != "best":
            for setting, shape in shapes.items():
                check_fit(head, shape=shape, where=str(setting))
        elif not any(fits(head, shape) for shape in shapes.values()):
            last, shape = list(shapes.items())[-1]
            reason = kind_of(head.kind).why_not(head, shape)
            raise HeadError(f"{head.kind} head: it fits no setting of the grid; on {last}: {reason}")


def check_classes(pipeline: Pipeline, source: ImageSource) -> None:
    """Raise HeadError, naming the class, where one has too few training images to hold some out."""
    heads, where = pipeline.heads, f"{pipeline.images.name}/{SPLITS[0]}"
    stratified_split(
        source.labels, heads.validation, seed=heads.split_seed, class_names=source.class_names, where=where
    )
