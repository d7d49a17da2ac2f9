"""Options that commands share, and how they override a pipeline file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from diffcache.config import ALL_PRESETS, HEADS, SPLITS, is_url

F = TypeVar("F", bound=Callable[..., Any])


class Numbers(click.ParamType):
    """Whole numbers separated by commas."""

    name = "N,N,..."

    def __init__(self, *, none: str | None = None) -> None:
        self.none = none

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(None if part.strip() == self.none else int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"expected whole numbers separated by commas, such as 30,90; got {value!r}", param, ctx)


class _BatchSize(click.ParamType):
    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "auto" or isinstance(value, int):
            return value
        if not value.isdecimal():
            self.fail(f'expected a whole number or "auto", got {value!r}', param, ctx)
        return int(value)


class CardName(click.ParamType):
    """A name, a path that ends in ``.toml``, or ``KIND:PLACE``."""

    name = "CARD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).endswith(".toml"):
            return Path(value)
        kind, colon, place = str(value).partition(":")  # a place here, or a name on the hub
        return f"{kind}:{Path(place).absolute()}" if colon and Path(place).exists() else value


class CachePlace(click.ParamType):
    """A folder, or a URL, which as a path would lose a slash."""

    name = "PLACE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_url(value) else Path(value)


class Words(click.ParamType):
    """Words separated by commas."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, tuple) else tuple(part.strip() for part in value.split(","))


class Patterns(click.ParamType):
    """Settings separated by commas, each of which may name several: ``t10,30/b6,7/pool4,t90/b8/pool1``."""

    name = "SETTING,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, tuple) else tuple(re.split(r"\s*,\s*(?=t)", value.strip()))


_KEYS = {
    "t": "extract.t",
    "b": "extract.b",
    "pool": "extract.pool",
    "draws": "extract.draws",
    "seed": "extract.seed",
    "augmentation": "extract.augmentation",
    "derive": "extract.derive",
    "on_overflow": "extract.on_overflow",
    "on_unreadable": "extract.on_unreadable",
    "on_changed": "extract.on_changed",
    "format": "extract.format",
    "dtype": "extract.dtype",
    "batch_size": "extract.batch_size",
    "decode_threads": "extract.decode_threads",
    "cache": "cache",
    "runs": "runs",
    "card": "backbone.card",
    "weights": "backbone.weights",
    "precision": "backbone.precision",
    "device": "backbone.device",
    "preset": ALL_PRESETS,
    "compile": "backbone.compile",
    "seeds": "ablate.seeds",
    "tensorboard": "heads.tensorboard",
}
"""Option to the key of the pipeline file that it replaces."""


def overrides(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line replaces in the pipeline file, by dotted key."""
    replaced = {key: options[name] for name, key in _KEYS.items() if options.get(name) is not None}
    if options.get("device") is not None:
        replaced["heads.device"] = options["device"]
    return replaced


_NOT_RECORDED = ("as_json", "dask", "mixed_workers")
"""Options that only change how a result is printed, or where it is computed."""


def typed_command() -> str:
    """The command as it was typed, but for what changes nothing of what it finds."""
    ctx = click.get_current_context()
    words = ["diffcache", str(ctx.info_name)]
    for parameter in ctx.command.params:
        name, value = str(parameter.name), ctx.params.get(str(parameter.name))
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name in _NOT_RECORDED or value is None:
            continue
        parts = ["-" if one is None else str(one) for one in value] if isinstance(value, tuple) else [str(value)]
        if isinstance(parameter, click.Argument):
            words += parts
        elif isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            words += [parameter.opts[0], ",".join(parts)]
    return shlex.join(words)


def _all(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


pipeline_file = click.argument("pipeline", type=click.Path())

grid_options = _all(
    click.option("--t", type=Numbers(none="-"), help="Time steps."),
    click.option("--b", type=Numbers(), help="Block numbers, as `diffcache blocks` lists them."),
    click.option("--pool", type=Numbers(), help="Pool sides; 0 keeps whole maps."),
    click.option("--draws", type=int, metavar="K", help="Noise draws an image."),
    click.option(
        "--setting",
        type=Words("SETTING,..."),
        help="These settings, with all draws, instead of the grid, such as t90/b24/pool2.",
    ),
)

extract_options = _all(
    click.option("--cache", type=CachePlace(), help="Root folder of the cache, or a URL of which heads are trained."),
    click.option("--format", type=click.Choice(["zarr", "hdf5"]), help="Format of new stores."),
    click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Type of the stored values."),
    click.option("--batch-size", type=_BatchSize(), help="Images computed together."),
    click.option("--decode-threads", type=int, metavar="N", help="Threads that decode images."),
    click.option("--seed", type=int, help="Seed of the noise and of the augmentation."),
    click.option(
        "--augmentation", type=click.Choice(["none", "flip", "crop_flip"]), help="What draws after 0 do to an image."
    ),
    click.option("--derive/--no-derive", default=None, help="Serve smaller pools from stored larger ones."),
    click.option("--on-overflow", type=click.Choice(["error", "saturate"]), help="Values that float16 cannot hold."),
    click.option("--on-unreadable", type=click.Choice(["error", "mark"]), help="Images that cannot be decoded."),
    click.option("--on-changed", type=click.Choice(["error", "mark"]), help="Images removed or changed since."),
)


def _chosen_cluster(ctx: click.Context, _: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    from diffcache.compute.cluster import ClusterAddress

    return ClusterAddress.parse(value)


_MIXED = click.option("--mixed-workers", is_flag=True, help="Let workers of different kinds extract into one store.")


def dask_option(what: str) -> Callable[[F], F]:
    """``--dask``; ``what`` is done on the cluster."""
    where = "local, local:N, tcp://host:8786, or a scheduler file (.json)"
    return click.option(
        "--dask", metavar="CLUSTER", callback=_chosen_cluster, help=f"{what} on a Dask cluster: {where}."
    )


cluster_options = _all(dask_option("Run the network"), _MIXED)
training_cluster_options = _all(dask_option("Extract what is missing, and train,"), _MIXED)
comparing_cluster_options = _all(dask_option("Extract what is missing, and compare,"), _MIXED)

backbone_options = _all(
    click.option("--card", type=CardName(), help="Card of the backbone, path of a card file, or KIND:PLACE."),
    click.option("--weights", type=click.Path(path_type=Path), help="File of the backbone's weights."),
    click.option("--device", help="Where backbone and heads compute: auto, cpu, cuda, cuda:1, mps, ..."),
    click.option(
        "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Arithmetic of the backbone."
    ),
    click.option(
        "--compile/--no-compile", default=None, help="Translate the backbone first, with torch.compile: a minute."
    ),
)

jobs_option = click.option(
    "--jobs", type=click.IntRange(1, 256), default=8, show_default=True, metavar="N", help="Transfers at once."
)

seeds_option = click.option("--seeds", type=Numbers(), help="Seeds of the heads, such as 0,1,2.")

head_options = _all(
    click.option("--head", type=Words("HEAD,..."), help=f"Only these heads of {', '.join(HEADS)}."),
    click.option("--preset", type=Words("NAME,..."), help="Presets of all heads that have them, one head each."),
    click.option("--runs", type=click.Path(path_type=Path), help="Folder of the runs."),
    click.option("--recipe", metavar="FINGERPRINT", help="Train on the features of this recipe."),
    click.option(
        "--tensorboard/--no-tensorboard", default=None, help="Write event files of the epochs into the runs' folders."
    ),
)


def _list_judgements(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from diffcache.cli.judging import list_judgements  # only now: no other command imports it

        list_judgements()
        ctx.exit()


judge_options = _all(
    click.option("--run", "judged", metavar="RUN", help="Judge this run: a folder, or the beginning of an id."),
    click.option("--part", type=Words("PART,..."), help="Only these parts; --list names them."),
    click.option("--k", type=Numbers(), help="Numbers of neighbours to choose from."),
    click.option("--labels", type=Words("N|N%,..."), help="Amounts of labels: so many a class, or a share of all."),
    click.option("--json", "as_json", is_flag=True, help="Print the results as JSON."),
    click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_judgements, help="List the parts."
    ),
)

cka_options = _all(
    click.option(
        "--setting", type=Patterns(), help="These settings instead of the grid, such as t10,30/b6,7/pool4 for four."
    ),
    click.option("--other-setting", type=Patterns(), help="Those of OTHER_PIPELINE."),
    click.option("--split", type=click.Choice(SPLITS), default=SPLITS[1], show_default=True, help="Of which images."),
    click.option(
        "--method",
        type=click.Choice(["exact", "minibatch"]),
        default="exact",
        show_default=True,
        help="Of all images, or estimated in one pass without the bias of few images.",
    ),
    click.option("--batch", type=click.IntRange(4), metavar="N", help="Images of a minibatch, 512 by default."),
    click.option("--recipe", type=Words("FINGERPRINT,..."), help="The features of this recipe, one a pipeline."),
)

sample_options = _all(
    click.option("--weights", type=click.Path(path_type=Path), help="File of the network's weights."),
    click.option("--count", type=int, metavar="N", help="Images; 16 by default, or all of --low-res."),
    click.option("--steps", metavar="TEXT", help='Steps to visit: "250" (default), "10,20,30" by section, "ddim25".'),
    click.option("--ddim", is_flag=True, help="Sample by DDIM; steps such as ddim25 do so by themselves."),
    click.option("--eta", type=float, default=0.0, show_default=True, help="Of DDIM: share of fresh noise, 0 to 1."),
    click.option("--classes", type=Numbers(), help="Sample n is of the n-th of them, round and round; else random."),
    click.option("--low-res", type=click.Path(path_type=Path), metavar="FILE", help=".npz of images to enlarge."),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random numbers."),
    click.option("--batch-size", type=int, metavar="N", help="Images computed together; 16 by default."),
    click.option("--device", default="auto", help="Where it is computed: auto, cpu, cuda, cuda:1, mps, ..."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        help="Arithmetic of the network.",
    ),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the images go (.npz)."),
    click.option("--grid", type=click.Path(path_type=Path), help="Picture of the first 64; OUT with .png by default."),
    click.option("--keep-grey", is_flag=True, help="Keep one channel of a grey network; suites read three."),
)
