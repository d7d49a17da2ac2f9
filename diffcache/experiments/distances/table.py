"""The result ``frechet``: a row for each distance, which several commands make together."""

from __future__ import annotations

from collections.abc import Mapping

from diffcache.config import Pipeline
from diffcache.errors import DiffcacheError
from diffcache.experiments.distances.frechet import Distance
from diffcache.experiments.results import Result, read_result, results_folder
from diffcache.recipe import Plain

NAME = "frechet"
_KEYS = ("a", "b", "network", "setting")
_COMMANDS = "commands"
_FINDING = "the smaller the nearer; distances of one network and setting compare, where they are of as many images"


def distance_row(distance: Distance) -> dict[str, Plain]:
    """A distance as a row: what was compared, where, by how many images each, and how far it is."""
    a, b = distance.sides
    first, second = distance.statistics
    return {
        "a": a.name,
        "b": b.name,
        "network": distance.space.network,
        "setting": distance.space.setting,
        "n_a": first.rows,
        "n_b": second.rows,
        "distance": distance.value,
    }


def distance_table(pipeline: Pipeline, distance: Distance, *, command: str) -> Result:
    """The pipeline's table with one distance more; a row of the same sides, network and setting is replaced."""
    row = distance_row(distance)
    there = _there(pipeline, columns=tuple(row))
    kept = {_key(one): (one, said) for one, said in there}
    kept[_key(row)] = (row, command)
    commands = [said for _, said in kept.values()]
    return Result(
        name=NAME,
        title=f"{pipeline.images.name}: Frechet distances between sets of images in the feature spaces of networks",
        command="; ".join(dict.fromkeys(commands)),
        images=pipeline.images.name,
        rows=tuple(one for one, _ in kept.values()),
        findings=(_FINDING,),
        facts={_COMMANDS: list(commands)},
    )


def _there(pipeline: Pipeline, *, columns: tuple[str, ...]) -> list[tuple[Mapping[str, Plain], str]]:
    """Rows of the table that is there, each with its command; none where it is another's, and is written anew."""
    try:
        result = read_result(results_folder(pipeline) / f"{NAME}.json")
    except (DiffcacheError, OSError):
        return []
    commands = result.facts.get(_COMMANDS)
    if result.columns != columns or not isinstance(commands, list) or len(commands) != len(result.rows):
        return []
    return list(zip(result.rows, map(str, commands), strict=True))


def _key(row: Mapping[str, Plain]) -> tuple[Plain, ...]:
    return tuple(row[key] for key in _KEYS)
