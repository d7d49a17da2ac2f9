"""Lists of ImageNet's classes that have a name, by their WordNet ids."""

from __future__ import annotations

from collections.abc import Mapping

# fmt: off
_IMAGENET_50 = (
    "n01601694", "n01669191", "n01755581", "n01770393", "n01855672", "n02018207", "n02058221", "n02096177",
    "n02097130", "n02099267", "n02100877", "n02104365", "n02106030", "n02114855", "n02125311", "n02133161",
    "n02484975", "n02489166", "n02747177", "n02906734", "n03124170", "n03272010", "n03337140", "n03483316",
    "n03498962", "n03710721", "n03717622", "n03733281", "n03759954", "n03775071", "n03814639", "n03837869",
    "n03838899", "n03854065", "n03954731", "n03983396", "n04026417", "n04200800", "n04209239", "n04311004",
    "n04380533", "n04428191", "n04443257", "n04509417", "n04525305", "n04554684", "n04606251", "n07583066",
    "n07711569", "n07753592",
)
# fmt: on

NAMED: Mapping[str, tuple[str, ...]] = {"imagenet_50": _IMAGENET_50}
"""Name to ids: a new list is one entry here. ImageNet-50 is the subset of the paper's ablations."""
