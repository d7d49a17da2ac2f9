"""Pipeline files: what they may hold, and the line that says what they may not."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffcache.config import (
    HEADS,
    HeadConfig,
    Pipeline,
    head_config,
    head_fields,
    head_sweep,
    load_pipeline,
    parse_pipeline,
)
from diffcache.errors import ConfigError, DiffcacheError, MissingError
from diffcache.setting import Setting

ROOT = Path(__file__).parents[1]
FILE = Path("/somewhere/pipelines/mine.toml")
GOOD: dict[str, Any] = {
    "images": {"name": "toys", "train": {"path": "train"}, "test": {"path": "/data/test"}},
    "backbone": {"card": "fashion_mnist_32", "weights": "../w.pt"},
    "extract": {"t": [30, 10], "b": 7, "pool": [1, 2]},
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """GOOD with values put in (or taken out, where Ellipsis) by dotted key."""
    values = copy.deepcopy(GOOD)
    for dotted, value in changes.items():
        *outer, key = dotted.split(".")
        table = values
        for step in outer:
            table = table.setdefault(step, {})
        if value is ...:
            del table[key]
        else:
            table[key] = value
    return values


def parse(changes: dict[str, Any] | None = None, overrides: dict[str, Any] | None = None) -> Pipeline:
    return parse_pipeline(changed(changes or {}), file=FILE, overrides=overrides)


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.toml")), ids=lambda path: path.name)
def test_the_pipelines_that_come_with_it(file: Path) -> None:
    pipeline = load_pipeline(file)
    assert pipeline.extract.settings
    assert pipeline.cache.is_absolute()


def test_what_is_above_a_link_is_above_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    folder = tmp_path / "project" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "a.toml").write_text((ROOT / "pipelines" / "fashion_mnist.toml").read_text())
    (tmp_path / "link").symlink_to(folder)
    assert load_pipeline(tmp_path / "link" / "a.toml").cache == tmp_path.resolve() / "project" / "cache"


def test_the_default_pipeline_covers_what_it_promises() -> None:
    pipeline = load_pipeline(ROOT / "pipelines" / "fashion_mnist.toml")
    extract = pipeline.extract
    assert len(extract.t) >= 3
    assert len(extract.b) >= 4
    assert len(extract.pool) >= 3
    assert {head.kind for head in pipeline.heads.heads} == set(HEADS) - {
        "fusion"
    }  # which has a pipeline file of its own
    assert pipeline.heads.pixels
    assert len(pipeline.images.class_names or ()) == 10
    assert pipeline.images.splits["train"].images == ROOT / "data/fashion_mnist/train-images-idx3-ubyte.gz"
    assert {head.kind: head.settings for head in pipeline.heads.heads}["linear"] == "all"


class TestGood:
    def test_defaults(self) -> None:
        pipeline = parse()
        assert pipeline.name == "mine"
        assert pipeline.heads.heads == ()
        assert pipeline.extract.format == "zarr"
        assert pipeline.extract.batch_size == "auto"
        assert [str(setting) for setting in pipeline.extract.settings] == [
            "t10/b7/pool1",
            "t10/b7/pool2",
            "t30/b7/pool1",
            "t30/b7/pool2",
        ]

    def test_paths_are_relative_to_the_file(self) -> None:
        pipeline = parse({"cache": "store", "images.train.path": "~/train"})
        assert pipeline.cache == Path("/somewhere/pipelines/store")
        assert pipeline.runs == Path("/somewhere/runs")
        assert pipeline.backbone.weights == Path("/somewhere/w.pt")
        assert pipeline.images.splits["test"].path == Path("/data/test")
        assert pipeline.images.splits["train"].path == Path.home() / "train"

    def test_paths_of_overrides_are_relative_to_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pipeline = parse(overrides={"cache": Path("store"), "backbone.weights": Path("~/w.pt"), "runs": "runs"})
        assert pipeline.cache == tmp_path / "store"
        assert pipeline.backbone.weights == Path.home() / "w.pt"
        assert pipeline.runs == Path("/somewhere/pipelines/runs")

    def test_overrides_replace_and_add(self) -> None:
        pipeline = parse(overrides={"extract.t": (5,), "extract.draws": 2, "heads.linear.lr": 0.5})
        assert pipeline.extract.t == (5,)
        assert pipeline.extract.draws == 2
        assert pipeline.extract.b == (7,)
        assert [head.lr for head in pipeline.heads.heads[0].heads] == [0.5]

    def test_overrides_leave_what_they_are_given_as_it_is(self) -> None:
        values = changed({})
        parse_pipeline(values, file=FILE, overrides={"extract.t": (5,), "images.name": "x"})
        assert values == GOOD

    def test_a_network_without_noise(self) -> None:
        assert parse({"extract.t": "-"}).extract.settings[0] == Setting(None, 7, 1)

    def test_repeated_values_count_once(self) -> None:
        assert parse({"extract.t": [30, 10, 30]}).extract.t == (30, 10)

    def test_heads_share_and_override(self) -> None:
        pipeline = parse({"heads.epochs": 5, "heads.mlp": {"epochs": 9, "hidden": 64}, "heads.linear": {}})
        (mlp,), (linear,) = (sweep.heads for sweep in pipeline.heads.heads)
        assert (mlp.kind, mlp.epochs, mlp.hidden, mlp.settings) == ("mlp", 9, 64, "best")
        assert (linear.kind, linear.epochs, linear.settings) == ("linear", 5, "all")

    def test_settings_of_a_head(self) -> None:
        def chosen(value: Any) -> Any:
            return head_config("mlp", {"settings": value}).settings

        assert chosen("all") == "all"
        assert chosen("t1/b1/pool1") == (Setting(1, 1, 1),)
        assert chosen(["t1/b1/pool1", "t2/b1/pool1", "t1/b1/pool1"]) == (Setting(1, 1, 1), Setting(2, 1, 1))

    def test_idx_with_the_format_said_once(self) -> None:
        split = {"images": "i.gz", "labels": "l.gz"}
        pipeline = parse({"images.format": "idx", "images.train": split, "images.test": split})
        assert pipeline.images.splits["train"].labels == Path("/somewhere/pipelines/l.gz")

    def test_condition(self) -> None:
        assert parse({"backbone.condition": "mean"}).backbone.condition == "mean"
        assert parse({"backbone.condition": 3}).backbone.condition == 3


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"imgaes": {}}, "unknown key 'imgaes'; did you mean 'images'"),
    "no nearest key": (
        {"zzz": 1},
        "unknown key 'zzz'; known: name, cache, runs, results, images, backbone, extract, heads, ablate, draws",
    ),
    "no images": ({"images": ...}, r"the table \[images\] is missing"),
    "no backbone": ({"backbone": ...}, r"the table \[backbone\] is missing"),
    "no extract": ({"extract": ...}, r"the table \[extract\] is missing"),
    "images no table": ({"images": 3}, "images: expected a table, got 3"),
    "backbone no table": ({"backbone": "x"}, "backbone: expected a table, got 'x'"),
    "extract a list of tables": ({"extract": [{}]}, "extract: expected a table"),
    "heads no table": ({"heads": ["linear"]}, "heads: expected a table"),
    "a head no table": ({"heads.linear": True}, r"heads\.linear: expected a table, got True"),
    "name": ({"name": "a/b"}, "name: expected a name of letters"),
    "name of dots": ({"name": ".."}, "name: expected a name"),
    "name no text": ({"name": 5}, "name: expected a name .* got 5"),
    "long name": ({"name": "x" * 101}, "name: expected a name"),
    "empty path": ({"cache": ""}, "cache: expected a text that is not empty"),
    "path no text": ({"cache": 5}, "cache: expected a text"),
    "zero byte in a path": ({"runs": "a\0b"}, "runs: expected a text"),
    "home of nobody": ({"cache": "~nobody-of-this-name/x"}, "cache: .* there is no such user"),
    "images without name": ({"images.name": ...}, "images: name is missing"),
    "name of images": ({"images.name": "Fashion MNIST"}, r"images\.name: expected a name"),
    "images key": ({"images.trian": {}}, "images: unknown key 'trian'; did you mean 'train'"),
    "no test": ({"images.test": ...}, r"the table \[images.test\] is missing; both train and test"),
    "split no table": ({"images.test": "x"}, r"images\.test: expected a table"),
    "split key": ({"images.test.pth": "x"}, r"images\.test: unknown key 'pth'; did you mean 'path'"),
    "split without path": ({"images.test.path": ...}, r'format "folder" needs path; path is missing'),
    "folder with labels": ({"images.test.labels": "l"}, r'images\.test\.labels: format "folder" takes path only'),
    "idx without labels": (
        {"images.test": {"format": "idx", "images": "i.gz"}},
        'format "idx" needs images and labels; labels is missing',
    ),
    "idx with path": (
        {"images.test": {"format": "idx", "images": "i", "labels": "l", "path": "p"}},
        r'images\.test\.path: format "idx" takes images and labels only',
    ),
    "format of images": (
        {"images.format": "tar"},
        r"""format: expected one of "folder", "idx", "npz", .*"huggingface", got 'tar'$""",
    ),
    "links": ({"images.test.follow_links": 1}, "follow_links: expected true or false, got 1"),
    "no class names": ({"images.class_names": []}, "class_names: expected at least one value"),
    "class name no text": ({"images.class_names": ["a", 5]}, r"class_names\[1\]: expected a text .* got 5"),
    "class name twice": ({"images.class_names": ["a", "b", "a"]}, "class_names: expected values that differ, 'a' is"),
    "made by no text": ({"images.made_by": 5}, "images.made_by: expected a text"),
    "no card": ({"backbone.card": ...}, "backbone: card is missing"),
    "card no text": ({"backbone.card": 5}, r"backbone\.card: expected a text"),
    "backbone key": ({"backbone.weigths": "x"}, "backbone: unknown key 'weigths'; did you mean 'weights'"),
    "precision": (
        {"backbone.precision": "fp8"},
        r"""precision: expected one of "auto", "fp32", .*"fp16", got 'fp8'$""",
    ),
    "precision no text": ({"backbone.precision": 16}, r'precision: expected one of "auto", "fp32", .* got 16'),
    "condition": ({"backbone.condition": "cat"}, "condition: expected a whole number, at least 0, got 'cat'"),
    "no t": ({"extract.t": ...}, "extract: t is missing"),
    "no t in the list": ({"extract.t": []}, r"extract\.t: expected at least one value"),
    "t below 0": ({"extract.t": [10, -1]}, r"extract\.t\[1\]: expected a whole number, 0 to 999999, got -1"),
    "t a number with a point": ({"extract.t": 1.0}, r"extract\.t: expected a whole number, 0 to 999999, got 1\.0"),
    "t true": ({"extract.t": True}, r"extract\.t: expected a whole number"),
    "t in a list in a list": ({"extract.t": [[1]]}, r"extract\.t: expected a whole number"),
    "b 0": ({"extract.b": 0}, r"extract\.b: expected a whole number, 1 to 9999, got 0"),
    "b beyond any network": ({"extract.b": 10**30}, "extract.b: expected a whole number, 1 to 9999, got 1000000"),
    "pool": ({"extract.pool": "2"}, r"extract\.pool: expected a whole number, 0 to 9999, got '2'"),
    "draws": ({"extract.draws": 0}, r"draws: expected a whole number, 1 to 10000, got 0"),
    "extract key": ({"extract.batchsize": 5}, "unknown key 'batchsize'; did you mean 'batch_size'"),
    "batch size": ({"extract.batch_size": "big"}, r'batch_size: expected a whole number, 1 to 65536, or "auto"'),
    "store format": ({"extract.format": "hdf"}, r"did you mean 'hdf5'"),
    "dtype": ({"extract.dtype": "bfloat16"}, "did you mean 'float16'"),
    "threads": ({"extract.decode_threads": 0}, "decode_threads: expected a whole number, 1 to 256"),
    "a number of thousands of digits": ({"extract.seed": 10**5000}, "seed: expected a whole number.*too long to show"),
    "a date": ({"extract.seed": datetime.date(2020, 1, 1)}, "seed: expected a whole number"),
    "heads key": ({"heads.lineer": {}}, "heads: unknown key 'lineer'; did you mean 'linear'"),
    "validation 0": ({"heads.validation": 0}, "validation: expected a number above 0, at most 0.9, got 0"),
    "validation nan": ({"heads.validation": float("nan")}, "validation: expected a number above 0"),
    "lr": ({"heads.linear.lr": -1}, r"heads\.linear\.lr: expected a number above 0, got -1"),
    "infinite lr": ({"heads.linear.lr": float("inf")}, "lr: expected a number above 0, got inf"),
    "lr beyond floats": ({"heads.linear.lr": 10**400}, "lr: expected a number above 0"),
    "lr true": ({"heads.linear.lr": True}, "lr: expected a number"),
    "shared lr": ({"heads.lr": "x", "heads.linear": {}}, r"heads\.linear\.lr: expected a number"),
    "kind": ({"heads.linear.kind": "mlp"}, "unknown key 'kind'"),
    "hidden of linear": (
        {"heads.linear.hidden": 5},
        r"heads\.linear\.hidden: a linear head has no hidden; it is for mlp, cnn",
    ),
    "width of cnn": ({"heads.cnn.width": 64}, "a cnn head has no width; it is for attention"),
    "shared hidden": ({"heads.hidden": 5}, "heads: unknown key 'hidden'"),
    "width and heads": (
        {"heads.attention": {"width": 100, "num_heads": 8}},
        "width must be a multiple of num_heads, got 100 and 8",
    ),
    "settings": ({"heads.mlp.settings": "beste"}, r'heads\.mlp\.settings: setting \'beste\': .*; or "all", or "best"'),
    "a setting": ({"heads.mlp.settings": ["t1/b1/pool1", 5]}, "setting 5: expected t<step>"),
    "no settings": ({"heads.mlp.settings": []}, "settings: expected at least one value"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_used(what: str) -> None:
    changes, message = BAD[what]
    parse()
    with pytest.raises(ConfigError, match=message) as caught:
        parse(changes)
    assert str(caught.value).startswith(str(FILE))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_an_override_is_validated_like_the_file() -> None:
    with pytest.raises(ConfigError, match="unknown key 'tt'"):
        parse(overrides={"extract.tt": (1,)})
    with pytest.raises(ConfigError, match=r"extract\.draws: expected a whole number"):
        parse(overrides={"extract.draws": -1})
    with pytest.raises(ConfigError, match="name: expected a table, got 'x'"):
        parse({"name": "x"}, overrides={"name.y": 1})
    with pytest.raises(ConfigError, match="no such user"):
        parse(overrides={"cache": Path("~nobody-of-this-name/x")})


class TestFiles:
    def test_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "folder.toml").mkdir()
        (tmp_path / "file").touch()
        for name in ("none.toml", "folder.toml", "file/x.toml"):
            with pytest.raises(MissingError, match="no such pipeline file; those that come with diffcache are in"):
                load_pipeline(tmp_path / name)
        with pytest.raises(MissingError, match="cannot be read: File name too long"):
            load_pipeline(tmp_path / ("x" * 5000))

    @pytest.mark.parametrize(
        "content", [b"a = ", b"\xff", b"a = 1\na = 2", b"a = " + b"1" * 5000, b"a = " + b"[" * 20_000, b"\0"]
    )
    def test_no_toml(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "x.toml"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"x\.toml: not a TOML file: "):
            load_pipeline(file)

    def test_a_path_that_no_file_has(self) -> None:
        with pytest.raises(DiffcacheError):
            load_pipeline("a\0b.toml")

    def test_the_working_directory_does_not_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "p").mkdir()
        (tmp_path / "p" / "x.toml").write_text(
            'backbone.card = "c"\nextract = {t = 1, b = 1, pool = 1}\n'
            'images = {name = "a", train.path = "1", test.path = "2"}\n'
        )
        monkeypatch.chdir(tmp_path)
        pipeline = load_pipeline("p/x.toml")
        assert pipeline.images.splits["train"].path == tmp_path / "p" / "1"
        assert pipeline.name == "x"


class TestHeads:
    @pytest.mark.parametrize("kind", HEADS)
    def test_fields_of_a_kind_make_it_again(self, kind: str) -> None:
        config = head_config(kind, {"standardize": False})
        fields = head_fields(config)
        assert "settings" not in fields
        assert fields.pop("kind") == kind
        named = {"fuse": "grid"} if kind == "fusion" else {"settings": config.settings}
        assert head_config(kind, {**fields, **named}) == config
        assert ("width" in fields) == (kind in ("attention", "fusion"))
        assert ("lr" in fields) == (kind not in ("logistic", "ridge"))
        assert ("l2" in fields) == (kind in ("logistic", "ridge"))
        assert ("hidden" in fields) == (kind in ("mlp", "cnn"))

    def test_unknown_kind(self) -> None:
        with pytest.raises(
            ConfigError,
            match=r'expected one of "linear", "mlp", "cnn", "attention", "fusion", "logistic", "ridge" \(did',
        ):
            head_config("attn")

    def test_lists_make_every_combination(self) -> None:
        sweep = head_sweep("mlp", {"lr": [1e-3, 1e-2], "seed": [0, 1, 2], "weight_decay": 0.5, "hidden": 7})
        assert [(head.lr, head.seed) for head in sweep.heads] == [
            (1e-3, 0), (1e-3, 1), (1e-3, 2), (1e-2, 0), (1e-2, 1), (1e-2, 2),
        ]  # fmt: skip
        assert {(head.weight_decay, head.hidden) for head in sweep.heads} == {(0.5, 7)}
        assert sweep.swept == {"lr": (1e-3, 1e-2), "seed": (0, 1, 2)}
        assert head_sweep("linear", {"lr": [1e-2]}).heads == (head_config("linear", {"lr": 1e-2}),)
        assert len(head_sweep("logistic").heads) > 1
        assert head_sweep("logistic", {"l2": 0.5}).heads == (head_config("logistic", {"l2": 0.5}),)

    def test_lists_of_a_pipeline(self) -> None:
        shared = {"heads.lr": [0.1, 0.2], "heads.epochs": 5, "heads.linear": {}, "heads.mlp": {"lr": 0.3}}
        linear, mlp, ridge = parse({**shared, "heads.ridge": {"l2": [1, 2]}}).heads.heads
        assert [head.lr for head in linear.heads] == [0.1, 0.2]
        assert [head.lr for head in mlp.heads] == [0.3]
        assert [head.l2 for head in ridge.heads] == [1, 2]

    @pytest.mark.parametrize(
        ("kind", "values", "line"),
        [
            ("linear", {"lr": []}, r"heads\.lr: expected at least one value"),
            ("linear", {"lr": [0.1, 0.1]}, r"heads\.lr: expected values that differ, 0\.1 is there twice"),
            ("linear", {"lr": [0.1, -1]}, r"heads\.lr: expected a number above 0, got -1"),
            ("linear", {"l2": [0.1]}, r"heads\.l2: a linear head has no l2; it is for logistic, ridge"),
            ("ridge", {"lr": [0.1]}, r"heads\.lr: a ridge head has no lr"),
            ("linear", {"batch_size": [1, 2]}, r"heads\.batch_size: expected a whole number"),
            (
                "linear",
                {"lr": [0.1, 0.2], "seed": list(range(501))},
                r"heads: lr x seed makes 1,002 heads, at most 1,000",
            ),
        ],
    )
    def test_lists_that_are_refused(self, kind: str, values: Any, line: str) -> None:
        with pytest.raises(ConfigError, match=line):
            head_sweep(kind, values)

    def test_is_a_head_config(self) -> None:
        assert isinstance(head_config("linear"), HeadConfig)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=6)
    | st.dates()
    | st.sampled_from(["auto", "mean", "all", "best", "-", "idx", "folder", "t1/b1/pool1", "~", "~x/y", "zarr"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
FIELDS = {field for key in HEADS for field in head_fields(head_config(key))} - {"kind"}
KEYS = st.sampled_from(
    [
        "name",
        "cache",
        "runs",
        "images",
        "backbone",
        "extract",
        "heads",
        *(f"images.{key}" for key in ("name", "format", "class_names", "made_by", "train", "test")),
        *(f"images.train.{key}" for key in ("format", "path", "images", "labels", "follow_links")),
        *(f"backbone.{key}" for key in ("card", "weights", "precision", "device", "condition")),
        *(f"extract.{key}" for key in ("t", "b", "pool", "draws", "seed", "format", "dtype", "batch_size")),
        *(f"heads.{key}" for key in ("pixels", "validation", "split_seed", "linear", "mlp", "epochs")),
        *(f"heads.{kind}.{key}" for kind in HEADS for key in sorted(FIELDS | {"settings"})),
    ]
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(KEYS | st.text(max_size=5), VALUES), min_size=1, max_size=3))
def test_any_values_make_a_pipeline_or_one_error_line(pairs: list[tuple[str, Any]]) -> None:
    values = copy.deepcopy(GOOD)
    for dotted, value in pairs:
        *outer, key = dotted.split(".")
        table = values
        for step in outer:
            inner = table.setdefault(step, {})
            if not isinstance(inner, dict):
                return
            table = inner
        table[key] = value
    try:
        pipeline = parse_pipeline(values, file=FILE)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        assert pipeline.extract.t
        assert pipeline.cache.is_absolute()


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=4))
def test_any_table_makes_a_pipeline_or_an_error(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse_pipeline(values, file=FILE)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, 2000), st.binary(max_size=3) | st.sampled_from([b"9" * 30, b"[[[", b'"""', b"\\u001b"])
        ),
        min_size=1,
        max_size=4,
    ),
    cut=st.none() | st.integers(0, 1500),
)
def test_any_file_is_a_pipeline_or_one_error_line(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    data = bytearray((ROOT / "pipelines" / "fashion_mnist.toml").read_bytes())
    for at, new in changes:
        data[at % len(data) : at % len(data) + 1] = new
    file = tmp_path / "x.toml"
    file.write_bytes(data[:cut])
    try:
        pipeline = load_pipeline(file)
    except ConfigError as error:
        assert str(error).startswith(str(file))
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        assert pipeline.extract.t
        assert pipeline.heads.heads is not None
