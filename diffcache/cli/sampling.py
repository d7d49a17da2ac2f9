"""``sample``: generate images with a card's network, and say where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffcache.cache.display.text import printable
from diffcache.cli.options import typed_command
from diffcache.cli.output import counted, echo, fact_lines
from diffcache.cli.progress import shown


def run_sample(card: str | Path, **options: Any) -> None:
    """``diffcache sample``; ``options`` are those of :func:`diffcache.experiments.sample_images`."""
    with shown() as on_event:
        from diffcache.experiments import sample_images

        done = sample_images(card, options.pop("weights"), **options, command=typed_command(), on_event=on_event)
    count, height, width, channels = done.shape
    request = done.facts["request"]
    sampler = request["sampler"]
    how = "ancestral" if sampler["kind"] == "ancestral" else f"DDIM, eta {sampler['eta']:g}"
    echo(
        fact_lines(
            {
                "images": f"{count:,} of {height}x{width}x{channels}, {done.computed:,} computed now",
                "sampler": f"{how}, {counted(len(done.facts['visited']), 'step')} ({request['steps']})",
                "seed": request["seed"],
                "file": printable(str(done.out)),
                "record": printable(str(done.record)),
                "grid": printable(str(done.grid)),
            }
        )
    )
