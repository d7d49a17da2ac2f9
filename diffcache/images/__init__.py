"""Where images come from: ordered, labelled, the same on every machine.

Open a split with :func:`open_split`, say with :class:`Preprocessing` what becomes of each image, and let
:func:`load_batches` decode ahead of the network.
"""

from diffcache.images.augment import Augmentation, Window, augmentation_named
from diffcache.images.crop import center_crop
from diffcache.images.decode import decode, extensions
from diffcache.images.folder import FolderImages, open_folder
from diffcache.images.idx import IdxImages, open_idx
from diffcache.images.listed import ListedImages, list_images
from diffcache.images.loader import LoadedBatch, Wanted, load_batches
from diffcache.images.npz import NpzImages, npz_arrays, open_npz
from diffcache.images.preprocess import Preprocessing, to_unit
from diffcache.images.sets import OpenedSet, open_set
from diffcache.images.source import ImageSource, LoadedImage, Stamp
from diffcache.images.split import FORMATS, open_split

__all__ = [
    "FORMATS",
    "Augmentation",
    "FolderImages",
    "IdxImages",
    "ImageSource",
    "ListedImages",
    "LoadedBatch",
    "LoadedImage",
    "NpzImages",
    "OpenedSet",
    "Preprocessing",
    "Stamp",
    "Wanted",
    "Window",
    "augmentation_named",
    "center_crop",
    "decode",
    "extensions",
    "list_images",
    "load_batches",
    "npz_arrays",
    "open_folder",
    "open_idx",
    "open_npz",
    "open_set",
    "open_split",
    "to_unit",
]
