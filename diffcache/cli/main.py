"""The group of commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from diffcache import __version__
from diffcache.cli.options import (
    CachePlace,
    CardName,
    Numbers,
    Words,
    backbone_options,
    cka_options,
    cluster_options,
    comparing_cluster_options,
    dask_option,
    extract_options,
    grid_options,
    head_options,
    jobs_option,
    judge_options,
    overrides,
    pipeline_file,
    sample_options,
    seeds_option,
    training_cluster_options,
)
from diffcache.errors import DiffcacheError

INTERRUPTED = 130  # what shells give a process that Ctrl-C ended
_GOES_ON = ("extract", "train-heads", "ablate", "judge", "draws", "cka", "sample", "push", "pull")


class _Group(click.Group):
    """Prints an error of diffcache's as one line, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of this file, which is that of use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DiffcacheError as error:
            _say(str(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            goes_on = ctx.invoked_subcommand in _GOES_ON
            kept = "; what was committed is kept, and the same command goes on from there" if goes_on else ""
            click.echo(f"\n{str(error) or f'interrupted{kept}'}", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:  # the machine's own refusals: no permission, a read-only file system, ...
            place = f"{error.filename}: " if error.filename else ""
            _say(f"{place}{error.strerror or error}")
            ctx.exit(1)


def _say(error: str) -> None:
    from diffcache.cache.display.text import printable

    click.echo(f"diffcache: {printable(error)}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="diffcache")
def main() -> None:
    """Extract the features of a frozen diffusion U-Net once, then train heads from the cache."""


@main.command(short_help="Stage one: write the features that a pipeline names.")
@pipeline_file
@grid_options
@extract_options
@backbone_options
@cluster_options
@click.option("--push", metavar="URL", help="Push what is committed to this bucket, such as s3://BUCKET/FOLDER.")
def extract(pipeline: str, dask: Any, mixed_workers: bool, push: str | None, **options: Any) -> None:
    """Stage one: write the features that PIPELINE names; what is cached is not computed again.

    With --dask the network runs on the workers of a Dask cluster, one for each GPU; they write into the cache, which
    all of them must have at its path, and so must the images and the weights be.
    """
    from diffcache.cli.commands import run_extract

    settings = options["setting"]
    run_extract(pipeline, overrides(options), settings=settings, dask=dask, mixed=mixed_workers, push=push)


@main.command(short_help="What `extract` would do, and what that takes.")
@pipeline_file
@grid_options
@extract_options
@backbone_options
@click.option("--time/--no-time", "timed", default=True, help="Whether to try the network for some seconds.")
def plan(pipeline: str, timed: bool, **options: Any) -> None:
    """Show what `extract` would do: what is cached, what is to be computed, and what that takes."""
    from diffcache.cli.planning import run_plan

    run_plan(pipeline, overrides(options), settings=options["setting"], timed=timed)


@main.command("train-heads", short_help="Stage two: train heads from the cache.")
@pipeline_file
@grid_options
@extract_options
@backbone_options
@head_options
@training_cluster_options
def train_heads(pipeline: str, dask: Any, mixed_workers: bool, **options: Any) -> None:
    """Stage two: train the heads of PIPELINE from the cache; features that are missing are extracted first.

    With --dask each training is a task on a worker of a Dask cluster, which reads the cache and writes the run's folder
    itself; all workers must have both at their paths.
    """
    from diffcache.cli.commands import run_train_heads

    run_train_heads(
        pipeline,
        overrides(options),
        settings=options["setting"],
        heads=options["head"],
        recipe=options["recipe"],
        dask=dask,
        mixed=mixed_workers,
    )


@main.command(short_help="Heads over t, b, pool and seeds, with curves and a heatmap.")
@pipeline_file
@grid_options
@extract_options
@backbone_options
@head_options
@seeds_option
@training_cluster_options
def ablate(pipeline: str, dask: Any, mixed_workers: bool, **options: Any) -> None:
    """Train the heads of PIPELINE over its grid with several seeds; write a table and the paper's curves.

    What is missing is extracted first; runs that exist are not repeated. With --dask trainings are spread over the
    workers of a Dask cluster, as by `train-heads`.
    """
    from diffcache.cli.ablating import run_ablate

    run_ablate(
        pipeline,
        overrides(options),
        settings=options["setting"],
        heads=options["head"],
        recipe=options["recipe"],
        dask=dask,
        mixed=mixed_workers,
    )


@main.command(short_help="What stored noise costs against fresh noise in every epoch.")
@pipeline_file
@extract_options
@backbone_options
@click.option("--setting", type=Words("SETTING,..."), help="On these settings, such as t90/b24/pool2.")
@click.option(
    "--arms", type=Words("ARM,..."), help="Such as 1,4,8 flip,fresh,fresh flip: stored draws, or fresh noise."
)
@click.option("--epochs", type=int, metavar="N", help="Epochs of every arm.")
@seeds_option
@click.option("--runs", type=click.Path(path_type=Path), help="Folder of the runs.")
def draws(pipeline: str, **options: Any) -> None:
    """Train the linear head of PIPELINE on few and on many stored draws, and with fresh noise in every epoch."""
    from diffcache.cli.drawing import run_draws

    named = {"settings": options["setting"], **{name: options[name] for name in ("arms", "epochs", "seeds")}}
    replaced = {f"draws.{name}": value for name, value in named.items() if value is not None}
    options = {**options, "seeds": None}
    run_draws(pipeline, {**overrides(options), **replaced})


@main.command(short_help="What a trained head says of new images.")
@click.argument("run")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, metavar="K", help="Classes an image.")
@click.option("--draws", type=click.IntRange(1), default=1, metavar="N", help="Average over N noise draws.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--weights", type=click.Path(path_type=Path), help="File of the network's weights, else looked for.")
@click.option("--runs", default="runs", show_default=True, help="Folder of the runs, to find RUN by its id.")
@click.option("--device", default="auto", help="Where it is computed: auto, cpu, cuda, cuda:1, mps, ...")
@click.option(
    "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="In place of that of the run's features."
)
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Images computed together.")
@click.pass_context
def predict(ctx: click.Context, run: str, images: tuple[Path, ...], **options: Any) -> None:
    """Classify IMAGEs, files or folders, by the head of RUN: a run's folder, or the beginning of its id.

    They go through the network and the settings that the run's features came from. The noise depends on an image's
    name, or on its path below the folder that is named; --draws averages it out. Exit status 1: some image could not
    be read, the others are predicted.
    """
    from diffcache.cli.predicting import run_predict

    ctx.exit(int(not run_predict(run, images, **options)))


@main.command(short_help="Images that the network generates.")
@click.argument("card", type=CardName())
@sample_options
def sample(card: str | Path, **options: Any) -> None:
    """Generate images with the network of CARD: a card's name, or path of a card file.

    They go into an .npz that evaluation suites read (arr_0: uint8, n x height x width x 3; arr_1: classes), with a
    picture of the first ones and a record of what made them beside it. Sample n follows from the seed and n alone, to
    last bits. Stopped, the same command goes on after the last whole group.
    """
    from diffcache.cli.sampling import run_sample

    run_sample(card, **options)


@main.command(short_help="More ways to judge features than accuracy.")
@click.argument("pipeline", type=click.Path(), required=False)
@grid_options
@extract_options
@backbone_options
@head_options
@judge_options
def judge(pipeline: str | None, **options: Any) -> None:
    """Judge features by neighbours, few labels, classes, confusions and calibration, and write what was found.

    Without options, what is judged is the setting and linear head of PIPELINE that validation chooses; what is missing
    is extracted and trained first, as `train-heads` does.
    """
    from diffcache.cli.judging import run_judge

    run_judge(
        pipeline,
        overrides(options),
        settings=options["setting"],
        heads=options["head"],
        recipe=options["recipe"],
        run=options["judged"],
        parts=options["part"],
        ks=options["k"],
        amounts=options["labels"],
        as_json=options["as_json"],
    )


@main.command(short_help="The Frechet distance between two sets of images.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--setting", metavar="SETTING", help="Of which features, such as t10/b13/pool1.")
@backbone_options
@click.option("--cache", type=CachePlace(), help="Root folder of the pipelines' cache, or a URL that is read.")
@click.option("--max", "most", type=click.IntRange(2), metavar="N", help="The first N images of each.")
@click.option("--allow-few", is_flag=True, help="Take fewer images than values; the distance is far too large.")
@click.option("--save", type=click.Path(path_type=Path), metavar="FILE.npz", help="Write the statistics of A.")
@click.option("--results", type=click.Path(path_type=Path), metavar="PIPELINE", help="Whose table the row joins.")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Images computed together.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def frechet(a: str, b: str, setting: str | None, most: int | None, **options: Any) -> None:
    """How far the images of A and of B lie apart in the feature space of a network: their Frechet distance.

    A and B each are a pipeline's split (pipelines/mine.toml:test), a folder of images, an .npz of images (arr_0, uint8,
    channels last), a store's folder, or an .npz of statistics (mu, sigma). Features are read from the cache where it
    has them; else the images pass the network: that of --card and --weights, or of the first pipeline. Where A or B
    is a pipeline's the distance joins its results. Both should have as many images, and several times as many as a
    feature has values.
    """
    from diffcache.cli.distances import run_frechet

    network = {name: options.pop(name) for name in ("card", "weights", "device", "precision", "compile")}
    run_frechet(a, b, setting=setting, network=network, most=most, **options)


@main.command(short_help="A picture of images with more and more noise.")
@pipeline_file
@click.option("--t", "ts", type=Numbers(), help="Time steps.")
@backbone_options
def noise(pipeline: str, ts: tuple[int, ...] | None, **options: Any) -> None:
    """Draw test images of PIPELINE at several time steps, with the noise that their features are made with."""
    from diffcache.cli.reporting import run_noise

    run_noise(pipeline, overrides(options), ts=ts)


@main.command(short_help="A picture of features in two dimensions, coloured by class.")
@pipeline_file
@extract_options
@backbone_options
@click.option("--setting", type=Words("SETTING"), help="Which features; by default those that validation chooses.")
@click.option("--method", type=Words("METHOD,..."), default="pca,tsne", show_default=True, help="pca, tsne.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder of the runs.")
def project(pipeline: str, **options: Any) -> None:
    """Project the test features of a setting of PIPELINE to two dimensions: principal components and t-SNE."""
    from diffcache.cli.reporting import run_project

    run_project(pipeline, overrides(options), settings=options["setting"], methods=options["method"])


@main.command(short_help="How alike the features of settings are, or of two networks.")
@pipeline_file
@click.argument("other", required=False, metavar="[OTHER_PIPELINE]", type=click.Path())
@cka_options
@extract_options
@backbone_options
@comparing_cluster_options
def cka(pipeline: str, other: str | None, dask: Any, mixed_workers: bool, **options: Any) -> None:
    """Compare the features of all settings of PIPELINE on the same images by linear CKA: 1 is alike, 0 is unlike.

    With OTHER_PIPELINE, of another network on these images, all settings of the one with all of the other; images are
    matched by their ids, and options that replace what a pipeline says, but for --card and --weights, are of both. A
    table, a matrix and a heatmap are written beside PIPELINE's results; features that are missing are extracted first.
    With --dask the workers of a Dask cluster read them; sums are taken in the same order.
    """
    from diffcache.cli.comparing import run_cka

    run_cka(
        pipeline,
        other,
        overrides(options),
        settings=options["setting"],
        other_settings=options["other_setting"],
        recipes=options["recipe"],
        split=options["split"],
        method=options["method"],
        batch=options["batch"],
        dask=dask,
        mixed=mixed_workers,
    )


@main.command(short_help="One HTML page of all that was found.")
@click.argument("pipelines", nargs=-1, required=True, metavar="PIPELINE...", type=click.Path())
@click.option("--out", type=click.Path(path_type=Path), help="The file; by default report.html beside the results.")
@click.option("--cache", type=CachePlace(), help="Root folder of the cache, or a URL that is read.")
@click.option("--runs", type=click.Path(path_type=Path), help="Folder of the runs.")
def report(pipelines: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Write one HTML file that opens offline: results, curves, tables that sort, mistakes, costs, commands."""
    from diffcache.cli.reporting import run_report

    run_report(pipelines, overrides(options), out=out)


@main.command(short_help="The networks, and their blocks.")
@click.argument("card", required=False)
def blocks(card: str | None) -> None:
    """List the blocks of CARD: number, name and shape. Without CARD, list the cards."""
    from diffcache.cli.listing import list_blocks, list_cards

    list_cards() if card is None else list_blocks(card)


@main.command(short_help="Stores and runs, and which of them belong together.")
@click.argument("what", required=False)
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache, or a URL.")
@click.option("--runs", default="runs", show_default=True, help="Folder of the runs.")
@click.pass_context
def ls(ctx: click.Context, what: str | None, cache: str, runs: str) -> None:
    """List the stores of a cache, or show WHAT: the runs made from a store, or the stores a run was made from.

    WHAT is a store's folder or its name (images/split/fingerprint, or a part of that; of the fingerprint its beginning
    is enough), a run's folder, or the beginning of a run's id.
    """
    from diffcache.cli.listing import list_one, list_stores

    well = list_stores(cache, runs=runs) if what is None else list_one(what, cache, runs=runs)
    ctx.exit(int(not well))


@main.command(short_help="A store's recipe, settings and provenance.")
@click.argument("store", required=False)
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache, or a URL.")
@click.pass_context
def info(ctx: click.Context, store: str | None, cache: str) -> None:
    """Show a store: its recipe, its settings and what is committed.

    STORE is a store's folder or its name (images/split/fingerprint, or a part of that; of the fingerprint its beginning
    is enough); without it all are shown.
    """
    from diffcache.cli.listing import show_stores

    ctx.exit(int(not show_stores(store, cache)))


@main.command(short_help="What differs between two stores.")
@click.argument("a")
@click.argument("b")
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache, or a URL.")
@click.pass_context
def diff(ctx: click.Context, a: str, b: str, cache: str) -> None:
    """Show what differs between the stores A and B; exit with 1 where something does.

    A and B are stores' folders or names, such as train/8ad3 (of the fingerprint its beginning is enough).
    """
    from diffcache.cli.housekeeping import diff_stores

    ctx.exit(int(diff_stores(a, b, cache)))


@main.command(short_help="Remove stores, or some settings of them.")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--setting", metavar="SETTING,...", help="Remove only these settings, such as t90/b24/pool2.")
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache.")
@click.option("--runs", default="runs", show_default=True, help="Folder of the runs, to say which use it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(stores: tuple[str, ...], setting: str | None, cache: str, runs: str, yes: bool) -> None:
    """Remove stores, or some settings of them; runs that were made from them stay.

    STORE is a store's folder or its name, such as train/8ad3 (of the fingerprint its beginning is enough).
    """
    from diffcache.cli.housekeeping import remove

    settings = None if setting is None else [text.strip() for text in setting.split(",")]
    remove(stores, cache, settings=settings, runs=runs, yes=yes)


@main.command(short_help="What killed processes have left.")
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache.")
@click.option("--delete", is_flag=True, help="Delete it; otherwise it is only listed.")
@click.option("--foreign", is_flag=True, help="Also what repairs have put aside, since it was no part of a store.")
def gc(cache: str, delete: bool, foreign: bool) -> None:
    """List what killed processes have left in a cache, and delete it with --delete."""
    from diffcache.cli.housekeeping import collect

    collect(cache, delete=delete, foreign=foreign)


@main.command(short_help="Check every byte of stores, and repair them.")
@click.argument("what", nargs=-1, metavar="[PIPELINE|STORE]...")
@grid_options
@extract_options
@backbone_options
@click.option("--recompute", type=click.IntRange(0), default=0, metavar="N", help="Run N random rows again, compare.")
@click.option("--repair", is_flag=True, help="Put right what is damaged; with a PIPELINE, compute what is missing.")
@dask_option("Read and check rows")
@click.pass_context
def verify(ctx: click.Context, what: tuple[str, ...], recompute: int, repair: bool, dask: Any, **options: Any) -> None:
    """Read whole stores and check every byte: those of a PIPELINE file, some, or all of the cache.

    Options that `extract` has too replace what PIPELINE says. STOREs are looked for in --cache, "cache" by default.
    With --dask the workers of a Dask cluster read the rows; --recompute and --repair compute here all the same.

    Exit status 0: all is well; 1: something is damaged; 2: something could not be looked at, or not be done; 3: nothing
    is damaged, but rows are missing, or what tells other software of committed and marked rows is behind.
    """
    from diffcache.cli import verifying

    ctx.exit(verifying.verify(what, options, recompute=recompute, repair=repair, dask=dask))


@main.command(short_help="Another format, compressed or plain.")
@click.argument("store")
@click.option("--to", required=True, metavar="CACHE", help="Root folder of another cache, where it goes.")
@click.option("--format", type=click.Choice(["zarr", "hdf5"]), help="Format; the store's own by default.")
@click.option("--compress", is_flag=True, help="Compress by zstd, after shuffling bytes; such a store is only read.")
@click.option("--cache", default="cache", show_default=True, help="Root folder of the store's cache.")
def convert(store: str, to: str, format: str | None, compress: bool, cache: str) -> None:
    """Write STORE in another format, or compressed or plain, into another cache; all of it is checked.

    STORE is a store's folder or its name, such as train/8ad3 (of the fingerprint its beginning is enough).
    """
    from diffcache.cli import exchange

    exchange.convert(store, cache, to=to, format=format, compression="zstd" if compress else None)


@main.command(short_help="Stores into a bucket.")
@click.argument("cache", metavar="CACHE")
@click.argument("url", metavar="URL")
@click.option("--store", "stores", type=Words("STORE,..."), help="Only these, such as digits/train or train/8ad3.")
@jobs_option
def push(cache: str, url: str, stores: tuple[str, ...] | None, jobs: int) -> None:
    """Bring the bucket at URL to have what CACHE has: a cache's folder, or one store's. Only what it lacks is sent.

    URL is s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER, which then is a cache too. Credentials are
    those of the environment. Every range is checked as it is read; stopped, the same command goes on from there.
    """
    from diffcache.cli import buckets

    buckets.push(cache, url, stores=stores, jobs=jobs)


@main.command(short_help="Stores out of a bucket.")
@click.argument("url", metavar="URL")
@click.argument("cache", metavar="CACHE")
@click.option("--store", "stores", type=Words("STORE,..."), help="Only these, such as digits or digits/train/8ad3.")
@jobs_option
def pull(url: str, cache: str, stores: tuple[str, ...] | None, jobs: int) -> None:
    """Bring CACHE, a cache's folder, to have what was pushed to URL: that of a cache, or of one store in it.

    URL is as for `push`, or http(s):// where such a folder lies on a server. Only what is lacking is read; all of it is
    checked before it counts, and nothing that CACHE has is replaced. Stopped, the same command goes on from there.
    """
    from diffcache.cli import buckets

    buckets.pull(url, cache, stores=stores, jobs=jobs)


@main.command(short_help="Features to .npy, .safetensors or .parquet.")
@click.argument("store")
@click.argument("setting")
@click.argument("out", type=click.Path())
@click.option("--cache", default="cache", show_default=True, help="Root folder of the store's cache.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def export(store: str, setting: str, out: str, cache: str, force: bool) -> None:
    """Write the features of SETTING, with ids and labels, to OUT: .npy, .safetensors or .parquet by its ending.

    STORE is a store's folder or its name, such as train/8ad3 (of the fingerprint its beginning is enough).
    """
    from diffcache.cli import exchange

    exchange.export(store, setting, out, cache, replace=force)


@main.command("import", short_help="Features made elsewhere.")
@click.argument("features", type=click.Path())
@click.option("--labels", required=True, type=click.Path(), help="Text file, a number or class a line, or .npy.")
@click.option("--ids", type=click.Path(), help="Text file, an id a line, or .npy; row numbers by default.")
@click.option("--images", required=True, metavar="NAME", help="Name of the image set.")
@click.option("--split", required=True, metavar="SPLIT", help="Split of it: train or test for heads.")
@click.option("--name", required=True, metavar="BACKBONE", help="What the network is called that made them.")
@click.option("--class-names", metavar="NAME,...|FILE", help="In label order; a file has one a line.")
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache.")
@click.option("--format", type=click.Choice(["zarr", "hdf5"]), default="zarr", help="Format of a new store.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Type to store; that of FEATURES by default.")
@click.option("--key", metavar="TENSOR", help="Which tensor of a .safetensors file.")
def import_(features: str, cache: str, **options: Any) -> None:
    """Put FEATURES made elsewhere into a cache: an array (n, D) or (n, C, H, W) in a .npy or .safetensors file.

    Heads train on them where a pipeline file has [backbone] imported = "BACKBONE" in place of a card.
    """
    from diffcache.cli import exchange

    exchange.import_(features, cache, **options)
