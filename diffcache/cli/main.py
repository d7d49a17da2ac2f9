"""The group of commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from diffcache import __version__
from diffcache.cli.options import (
    backbone_options,
    extract_options,
    grid_options,
    head_options,
    overrides,
    pipeline_file,
)
from diffcache.errors import DiffcacheError

INTERRUPTED = 130  # what shells give a process that Ctrl-C ended


class _Group(click.Group):
    """Prints an error of diffcache's as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DiffcacheError as error:
            click.echo(f"diffcache: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; what was committed is kept, and the same command goes on from there", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:  # the reader of a pipe has gone, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:  # the machine's own refusals: no permission, a read-only file system, ...
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"diffcache: {place}{error.strerror or error}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="diffcache")
def main() -> None:
    """Extract the features of a frozen diffusion U-Net once, then train heads from the cache."""


@main.command()
@pipeline_file
@grid_options
@extract_options
@backbone_options
def extract(pipeline: str, **options: Any) -> None:
    """Stage one: write the features that PIPELINE names; what is cached is not computed again."""
    from diffcache.cli.commands import run_extract

    run_extract(pipeline, overrides(options), settings=options["setting"])


@main.command("train-heads")
@pipeline_file
@grid_options
@extract_options
@backbone_options
@head_options
def train_heads(pipeline: str, **options: Any) -> None:
    """Stage two: train the heads of PIPELINE from the cache; features that are missing are extracted first."""
    from diffcache.cli.commands import run_train_heads

    run_train_heads(
        pipeline, overrides(options), settings=options["setting"], heads=options["head"], recipe=options["recipe"]
    )


@main.command()
@click.argument("card", required=False)
def blocks(card: str | None) -> None:
    """List the blocks of CARD: number, name and shape. Without CARD, list the cards."""
    from diffcache.cli.listing import list_blocks, list_cards

    list_cards() if card is None else list_blocks(card)


@main.command()
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache.")
def ls(cache: str) -> None:
    """List the stores of a cache."""
    from diffcache.cli.listing import list_stores

    list_stores(cache)


@main.command()
@click.argument("store", required=False)
@click.option("--cache", default="cache", show_default=True, help="Root folder of the cache.")
def info(store: str | None, cache: str) -> None:
    """Show a store: its recipe, its settings and what is committed.

    STORE is a store's folder or the beginning of its fingerprint; without it all are shown.
    """
    from diffcache.cli.listing import show_stores

    show_stores(store, cache)
