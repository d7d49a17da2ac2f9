"""Miniature image sets in the layouts of their authors: real images, real lists, three classes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from tests.images.pictures import encoded

TRAIN, TEST = 4, 2
"""Images of each class."""

WORDNET = ("n01440764", "n02012849", "n03126707")
WORDS = ("tench, Tinca tinca", "crane", "crane")  # two of the thousand classes do share a name

_SIZE = (20, 16)


def jpeg(seed: int) -> bytes:
    return encoded(seed, "JPEG", _SIZE)


def write(place: Path, data: bytes | str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data.encode() if isinstance(data, str) else data)


def images(split: str) -> Iterator[tuple[int, int, int]]:
    """Class, number in the class, and a number that no other image has."""
    count, first = (TRAIN, 0) if split == "train" else (TEST, 1000)
    for label in range(3):
        for i in range(count):
            yield label, i, first + label * count + i


def cells(values: Sequence[Any]) -> np.ndarray:
    """A cell array of one column."""
    made = np.empty((len(values), 1), object)
    made[:, 0] = values
    return made


def records(**fields: Sequence[Any]) -> np.ndarray:
    """A struct array of one row."""
    rows = list(zip(*fields.values(), strict=True))
    made = np.empty((1, len(rows)), [(name, object) for name in fields])
    for i, row in enumerate(rows):
        made[0, i] = row
    return made


def mat(place: Path, **variables: Any) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    savemat(str(place), variables)


# --- ImageNet


def imagenet_train(root: Path) -> None:
    for label, i, n in images("train"):
        write(root / "train" / WORDNET[label] / f"{WORDNET[label]}_{i}.JPEG", jpeg(n))


def imagenet_folders(root: Path) -> None:
    imagenet_train(root)
    for k, (label, _, n) in enumerate(images("test"), 1):
        write(root / "val" / WORDNET[label] / f"ILSVRC2012_val_{k:08d}.JPEG", jpeg(n))


def imagenet_devkit(root: Path) -> None:
    imagenet_train(root)
    for k, (_, _, n) in enumerate(images("test"), 1):
        write(root / "val" / f"ILSVRC2012_val_{k:08d}.JPEG", jpeg(n))
    devkit(root / "ILSVRC2012_devkit_t12" / "data")


def devkit(folder: Path, *, trained: Sequence[int] = (TRAIN, TRAIN, TRAIN)) -> None:
    """Its numbers are in another order than the WordNet ids, and it has a node above the classes."""
    numbers = {label: 3 - label for label in range(3)}
    order = sorted(numbers, key=lambda label: numbers[label])
    mat(
        folder / "meta.mat",
        synsets=records(
            ILSVRC2012_ID=[*(numbers[label] for label in order), 4],
            WNID=[*(WORDNET[label] for label in order), "n00001740"],
            words=[*(WORDS[label] for label in order), "entity"],
            gloss=["a gloss"] * 4,
            num_children=[0, 0, 0, 3],
            children=[0, 0, 0, np.array([1, 2, 3])],
            wordnet_height=[0, 0, 0, 1],
            num_train_images=[*(trained[label] for label in order), 0],
        ).T,
    )
    truth = "".join(f"{numbers[label]}\n" for label, _, _ in images("test"))
    write(folder / "ILSVRC2012_validation_ground_truth.txt", truth)


def imagenet_kaggle(root: Path) -> None:
    data = root / "ILSVRC" / "Data" / "CLS-LOC"
    imagenet_train(data)
    lines = []
    for k, (label, _, n) in enumerate(images("test"), 1):
        write(data / "val" / f"ILSVRC2012_val_{k:08d}.JPEG", jpeg(n))
        lines.append(f"ILSVRC2012_val_{k:08d},{WORDNET[label]} 85 1 499 272 {WORDNET[label]} 131 0 499 254 \n")
    write(root / "LOC_val_solution.csv", "ImageId,PredictionString\n" + "".join(reversed(lines)))
    words = "".join(f"{one} {said}\n" for one, said in zip(WORDNET, WORDS, strict=True))
    write(root / "LOC_synset_mapping.txt", words)


# --- birds


def four_lists(home: Path, rows: Sequence[tuple[str, str, str, int]], classes: Mapping[str, str]) -> None:
    """Image, path, class number and 1 for training of each row."""
    write(home / "images.txt", "".join(f"{image} {path}\n" for image, path, _, _ in rows))
    write(home / "image_class_labels.txt", "".join(f"{image} {number}\n" for image, _, number, _ in rows))
    write(home / "train_test_split.txt", "".join(f"{image} {train}\n" for image, _, _, train in rows))
    write(home / "classes.txt", "".join(f"{number} {name}\n" for number, name in classes.items()))


CUB = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")


def cub(root: Path) -> None:
    home, rows = root / "CUB_200_2011", []
    for split in ("test", "train"):
        for label, i, n in images(split):
            path = f"{CUB[label]}/{CUB[label][4:]}_{i:04d}_{n}.jpg"
            write(home / "images" / path, jpeg(n))
            rows.append((str(len(rows) + 1), path, str(label + 1), int(split == "train")))
    four_lists(home, rows, {str(k + 1): name for k, name in enumerate(CUB)})


def nabirds(root: Path) -> None:
    """Class numbers with gaps, inner nodes of the tree, and a name that two leaves have."""
    numbers, rows = (295, 817, 1010), []
    for split in ("train", "test"):
        for label, _, n in images(split):
            image = f"{n:08x}-21dc-4d0c-bfe1-4cae3c85c829"
            path = f"{numbers[label]:04d}/{image.replace('-', '')}.jpg"
            write(root / "images" / path, jpeg(n))
            rows.append((image, path, str(numbers[label]), int(split == "train")))
    names = {"0": "Birds", "1": "Ducks, Geese, and Swans", "295": "Common Eider (Adult male)"}
    four_lists(root, rows, {**names, "817": "Oak Titmouse", "1010": "Oak Titmouse"})
    write(root / "hierarchy.txt", "1 0\n295 1\n817 0\n1010 0\n")


# --- sets of .mat files


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012")


def cars(root: Path) -> None:
    mat(root / "devkit" / "cars_meta.mat", class_names=cells(CARS).T)
    places = {"train": root / "devkit" / "cars_train_annos.mat", "test": root / "cars_test_annos_withlabels.mat"}
    for split, place in places.items():
        names, labels = [], []
        for k, (label, _, n) in enumerate(images(split), 1):
            write(root / f"cars_{split}" / f"{k:05d}.jpg", jpeg(n))
            names.append(f"{k:05d}.jpg")
            labels.append(np.uint8(label + 1))
        mat(place, annotations=records(**{"bbox_x1": [1] * len(names), "class": labels, "fname": names}))


def cars_old(root: Path) -> None:
    paths, labels, tests = [], [], []
    for split in ("train", "test"):
        for label, _, n in images(split):
            paths.append(f"car_ims/{len(paths) + 1:06d}.jpg")
            write(root / paths[-1], jpeg(n))
            labels.append(np.uint8(label + 1))
            tests.append(np.uint8(split == "test"))
    annotations = records(**{"relative_im_path": paths, "bbox_x1": [1] * len(paths), "class": labels, "test": tests})
    mat(root / "cars_annos.mat", annotations=annotations, class_names=cells(CARS).T)


DOGS = ("n02085620-Chihuahua", "n02085936-Maltese_dog", "n02113978-Mexican_hairless")


def dogs(root: Path) -> None:
    for split in ("train", "test"):
        paths, labels = [], []
        for label, _, n in images(split):
            paths.append(f"{DOGS[label]}/{DOGS[label][:9]}_{n}.jpg")
            write(root / "Images" / paths[-1], jpeg(n))
            labels.append(label + 1)
        noted = [path.removesuffix(".jpg") for path in paths]
        numbers = np.array(labels, np.uint8)[:, None]
        mat(root / f"{split}_list.mat", file_list=cells(paths), annotation_list=cells(noted), labels=numbers)


def flowers(root: Path) -> None:
    """Image numbers of the splits are mixed, as they are; half of the training images are in ``valid``."""
    labels, of = [], {"trnid": [], "valid": [], "tstid": []}
    rows = [("test", *row) for row in images("test")] + [("train", *row) for row in images("train")]
    for k, (split, label, i, n) in enumerate(rows, 1):
        write(root / "jpg" / f"image_{k:05d}.jpg", jpeg(n))
        labels.append(label + 1)
        of["tstid" if split == "test" else ("trnid", "valid")[i % 2]].append(k)
    mat(root / "imagelabels.mat", labels=np.array([labels], np.uint8))
    mat(root / "setid.mat", **{name: np.array([numbers], np.uint16) for name, numbers in of.items()})


# --- aircraft

AIRCRAFT = ("707-320", "Cessna 172", "F/A-18")


def aircraft(root: Path) -> None:
    home = root / "fgvc-aircraft-2013b" / "data"
    lists: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for split in ("train", "test"):
        for label, i, n in images(split):
            image = f"{1_000_000 - n:07d}"
            write(home / "images" / f"{image}.jpg", jpeg(n))
            lists["test" if split == "test" else ("train", "val")[i % 2]].append((image, label))
    levels = {
        "variant": ("variants.txt", AIRCRAFT),
        "family": ("families.txt", ("Boeing 707", "Cessna 172", "F/A-18")),
        "manufacturer": ("manufacturers.txt", ("Boeing", "Cessna", "Boeing")),
    }
    for level, (file, names) in levels.items():
        write(home / file, "".join(f"{name}\n" for name in sorted(set(names))))
        for part, rows in {**lists, "trainval": lists["train"] + lists["val"]}.items():
            write(home / f"images_{level}_{part}.txt", "".join(f"{image} {names[label]}\n" for image, label in rows))


# --- containers


def shard(place: Path, files: Sequence[tuple[str, bytes]]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def webdataset(root: Path) -> None:
    """Training images in two shards, labels in .cls; test images in one."""
    for split in ("train", "test"):
        rows = sorted(images(split), key=lambda row: row[1])
        half = len(rows) // 2 if split == "train" else len(rows)
        for k, some in enumerate(part for part in (rows[:half], rows[half:]) if part):
            files = []
            for label, _, n in some:
                files += [(f"{n:06d}.cls", str(label).encode()), (f"{n:06d}.jpg", jpeg(n))]
            shard(root / f"{split}-{k:06d}.tar", files)


def rows_of(split: str) -> dict[str, list[Any]]:
    rows = list(images(split))
    return {
        "image": [{"bytes": jpeg(n), "path": f"{n}.jpg"} for _, _, n in rows],
        "label": [label for label, _, _ in rows],
    }


def table(rows: dict[str, list[Any]], names: Sequence[str] | None = ("ape", "bat", "cat")) -> Any:
    import pyarrow

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("label", pyarrow.int64())])
    made = pyarrow.table(rows, schema=schema)
    if names is None:
        return made
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def parquet(root: Path) -> None:
    import pyarrow.parquet

    (root / "data").mkdir(parents=True)
    made = table(rows_of("train"))
    pyarrow.parquet.write_table(made.slice(0, 7), root / "data" / "train-00000-of-00002.parquet", row_group_size=3)
    pyarrow.parquet.write_table(made.slice(7), root / "data" / "train-00001-of-00002.parquet", row_group_size=3)
    pyarrow.parquet.write_table(table(rows_of("test")), root / "data" / "test-00000-of-00001.parquet")


def on_disk(root: Path) -> None:
    import pyarrow

    for split in ("train", "test"):
        place = root / split / "data-00000-of-00001.arrow"
        place.parent.mkdir(parents=True)
        made = table(rows_of(split))
        with pyarrow.OSFile(str(place), "wb") as sink, pyarrow.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made, max_chunksize=5)
        state = {"_data_files": [{"filename": place.name}], "_fingerprint": "x", "_split": split}
        write(root / split / "state.json", json.dumps(state))
    write(root / "dataset_dict.json", json.dumps({"splits": ["train", "test"]}))


@dataclass(frozen=True)
class Kind:
    """A set in one of its layouts: how it is made, and how a pipeline names it."""

    format: str
    make: Callable[[Path], None]
    class_names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


_CRANES = ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")
_DOTS = tuple(name[4:].replace("_", " ") for name in CUB)
KINDS: Mapping[str, Kind] = {
    "imagenet, folders": Kind("imagenet", imagenet_folders, WORDNET),
    "imagenet, devkit": Kind("imagenet", imagenet_devkit, _CRANES),
    "imagenet, kaggle": Kind("imagenet", imagenet_kaggle, _CRANES),
    "cub": Kind("cub_200_2011", cub, _DOTS),
    "nabirds": Kind("nabirds", nabirds, ("Common Eider (Adult male)", "Oak Titmouse (817)", "Oak Titmouse (1010)")),
    "cars": Kind("stanford_cars", cars, CARS),
    "cars, older": Kind("stanford_cars", cars_old, CARS),
    "dogs": Kind("stanford_dogs", dogs, ("Chihuahua", "Maltese dog", "Mexican hairless")),
    "aircraft": Kind("fgvc_aircraft", aircraft, AIRCRAFT),
    "flowers": Kind("flowers_102", flowers, ("rose", "lotus", "iris"), {"class_names": ("rose", "lotus", "iris")}),
    "webdataset": Kind(
        "webdataset",
        webdataset,
        ("0", "1", "2"),
        {"train": ("train-{000000..000001}.tar",), "test": ("test-*.tar",)},
    ),
    "parquet": Kind("huggingface", parquet, ("ape", "bat", "cat")),
    "save_to_disk": Kind("huggingface", on_disk, ("ape", "bat", "cat")),
}
