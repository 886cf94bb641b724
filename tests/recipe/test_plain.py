"""Plain data read back: strict about names, types and numbers, one sentence with the place, old files included."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from segcore.errors import InputError
from segcore.paper import load_paper
from segcore.recipe import Augment, Data, Model
from segcore.recipe.file import read_recipe, read_recipe_file, recipe_document, recipe_from_plain
from segcore.recipe.plain import from_json, from_plain, to_plain
from segcore.weights.header import CheckpointMeta
from tests.recipe.test_recipe import PAPER, RECIPE

STORED = Path(__file__).parent / "stored"


@dataclass(frozen=True, kw_only=True)
class Strides(Model):
    """Options whose choices are numbers."""

    stride: Literal[8, 32] = 32


def changed(section: str, **values: Any) -> dict[str, Any]:
    plain = to_plain(RECIPE)
    plain[section].update(values)
    return plain


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        ("optim", {"lrr": 1}, "x: optim: unknown entries lrr"),
        ("optim", {"kind": "lion"}, "x: optim.kind: invalid value 'lion', expected one of adamw, sgd"),
        ("optim", {"kind": ["sgd"]}, "x: optim.kind: expected str, got array"),
        ("optim", {"lr": "0.1"}, "x: optim.lr: expected float, got str"),
        ("optim", {"lr": True}, "x: optim.lr: expected float, got bool"),
        ("optim", {"lr": None}, "x: optim.lr: expected float, got null"),
        ("optim", {"lr": 10**400}, "x: optim.lr: number out of range"),
        ("optim", {"lr": -1}, "x: --optim.lr must be positive, got -1.0"),
        ("optim", {"lr": math.nan}, "x: --optim.lr must be a finite 64-bit number, got nan"),
        ("optim", {"lr": math.inf}, "x: --optim.lr must be a finite 64-bit number, got inf"),
        ("optim", {"lr_mult": [1]}, "x: optim.lr_mult: expected object, got array"),
        ("optim", {"lr_mult": {"head": "x"}}, "x: optim.lr_mult[...]: expected float, got str"),
        ("optim", {"lr_mult": {"head": math.nan}}, "--optim.lr-mult must be a finite 64-bit number"),
        ("augment", {"crop": [1, 2, 3]}, "x: augment.crop: expected array of length 2, got 3"),
        ("augment", {"crop": "12"}, "x: augment.crop: expected array, got str"),
        ("augment", {"crop": {"1": 2, "2": 3}}, "x: augment.crop: expected array, got object"),
        ("augment", {"flip_pairs": [[1, 2], [3, "4"]]}, "x: augment.flip_pairs[1][1]: expected int, got str"),
        ("data", {"batch": 4.5}, "x: data.batch: expected int, got float"),
        ("data", {"batch": True}, "x: data.batch: expected int, got bool"),
        ("data", {"batch": 10**4000}, "x: --data.batch must be a finite 64-bit number"),
        ("data", {"classes": "a\0b"}, "x: data.classes: 'a\\x00b' is no text that a file can be named by"),
        ("data", {"classes": "\ud800"}, "x: data.classes: '\\ud800' is no text that a file can be named by"),
        ("run", {"resume": "no"}, "x: run.resume: expected bool, got str"),
        ("run", {"resume": 0}, "x: run.resume: expected bool, got int"),
        ("model", {"band": True}, "x: model.band: expected int, got bool"),
        ("model", {"bands": 1}, "x: model: unknown entries bands"),
        ("published", {"miou": "abc"}, "x: published.miou: expected float | null, got str"),
        ("published", {"miou": [1]}, "x: published.miou: expected float | null, got array"),
        ("published", {"miou": math.inf}, "published.miou must be a finite 64-bit number"),
        ("published", {"note": 1}, "x: published.note: expected str, got int"),
    ],
)
def test_a_wrong_entry_is_named_by_its_place(section: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        recipe_from_plain(PAPER, changed(section, **values), "x")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [None, [], "text", 3, {"optim": []}, {"model": None}])
def test_a_section_of_another_kind_is_refused(value: Any) -> None:
    plain = {**to_plain(RECIPE), **value} if isinstance(value, dict) else value
    with pytest.raises(InputError, match=r"^x: .*expected object"):
        recipe_from_plain(PAPER, plain, "x")


def test_a_missing_section_is_named() -> None:
    plain = to_plain(RECIPE)
    del plain["model"]
    with pytest.raises(InputError, match=r"^x: object missing required field model$"):
        recipe_from_plain(PAPER, plain, "x")


@pytest.mark.parametrize("value", [8.0, True, "8", 7, [8]])
def test_a_choice_among_numbers_is_exact(value: Any) -> None:
    with pytest.raises(InputError, match="stride"):
        from_plain(Strides, {"backbone": "resnet18", "stride": value}, "x")


def test_whole_numbers_are_taken_where_a_fraction_may_stand() -> None:
    recipe = recipe_from_plain(PAPER, changed("optim", lr=1, betas=[0, 0]), "x")
    assert (recipe.optim.lr, recipe.optim.betas) == (1.0, (0.0, 0.0))
    assert {type(value) for value in (recipe.optim.lr, *recipe.optim.betas)} == {float}


def test_plain_data_of_nested_tuples_becomes_tuples_again() -> None:
    plain = json.loads(json.dumps(to_plain(RECIPE.augment)))
    assert plain == to_plain(RECIPE.augment)
    assert from_plain(Augment, plain, "x") == RECIPE.augment


def test_a_path_of_undecodable_bytes_survives(tmp_path: Path) -> None:
    """Linux file names are bytes: Python gives such a name to a command as a string with lone surrogates."""
    recipe = replace(RECIPE, run=replace(RECIPE.run, data="data-\udcff"))
    (tmp_path / "recipe.json").write_text(recipe_document("band", "toy", recipe, {}))
    assert read_recipe(PAPER, str(tmp_path)) == ("toy", recipe)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"paper": "band"} trailing',
        b'{"paper": "\xff\xfe"}',
        b'{"paper": "ba\0nd"}',
        b'{"paper": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"recipe":' * 100_000,
    ],
    ids=["empty", "cut", "trailing", "not UTF-8", "NUL", "5000 digits", "deep list", "deep table"],
)
def test_a_file_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.json").write_bytes(content)
    with pytest.raises(InputError, match=r"notes\.json is not readable as JSON") as error:
        read_recipe(PAPER, str(tmp_path / "notes.json"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("content", [[], None, 3, "text", {}, {"paper": "band", "name": "toy"}])
def test_a_document_that_is_no_recipe_is_named(tmp_path: Path, content: Any) -> None:
    (tmp_path / "notes.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"notes\.json: "):
        read_recipe(PAPER, str(tmp_path / "notes.json"))


@pytest.mark.parametrize(
    "name", ["x/../../escaped", "..", ".", "", "a/b", "a\\b", "/etc", "-x", "a\0", "a\n", "a" * 300, ["x"], None, 7]
)
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    document = {**json.loads(recipe_document("band", "toy", RECIPE, {})), "name": name}
    (tmp_path / "recipe.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"recipe\.json: .*name"):
        read_recipe(PAPER, str(tmp_path))


def test_an_entry_beside_the_recipe_must_be_known(tmp_path: Path) -> None:
    document = {**json.loads(recipe_document("band", "toy", RECIPE, {})), "notes": "mine"}
    (tmp_path / "recipe.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"recipe\.json: unknown entries notes"):
        read_recipe(PAPER, str(tmp_path))


def test_a_recipe_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*recipe\.json: No such file"):
        read_recipe_file(tmp_path / "recipe.json")


@pytest.mark.parametrize("file", sorted(STORED.glob("*.json")), ids=lambda file: file.stem)
def test_a_recipe_file_of_version_0_1_reads_as_it_was_meant(file: Path) -> None:
    document = read_recipe_file(file)
    paper = load_paper(document.paper)
    name, recipe = read_recipe(paper, str(file)) or ("", RECIPE)
    assert file.stem == f"{paper.name}-{name}"
    assert isinstance(recipe.model, paper.model_class)
    plain = to_plain(recipe)
    for section, stored in json.loads(file.read_text())["recipe"].items():
        assert plain[section].items() >= stored.items()


def test_a_header_of_version_0_1_keeps_scores_that_are_not_defined() -> None:
    """A class that no image has scores NaN, which json.dumps writes as it stands."""
    text = (
        '{"paper": "tiny", "recipe_name": "toy", "recipe": {"model": {"width": 4}}, "classes": ["road", "sky"], '
        '"palette": [[1, 2, 3], [4, 5, 6]], "iteration": 12, "scores": {"mIoU": 0.5, "IoU.sky": NaN}, '
        '"versions": {"torch": "2"}}'
    )
    meta = from_json(CheckpointMeta, text, "x")
    assert (meta.classes, meta.palette) == (["road", "sky"], [[1, 2, 3], [4, 5, 6]])
    assert meta.recipe == {"model": {"width": 4}}
    assert meta.scores["mIoU"] == 0.5
    assert math.isnan(meta.scores["IoU.sky"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"palette": [[1, "2", 3]]}, r"x: palette\[0\]\[1\]: expected int, got str"),
        ({"palette": [[1, 2, 300]]}, r"x: palette\[0\]\[2\]: expected int <= 255"),
        ({"palette": [[1, 2]]}, r"x: palette\[0\]: expected array of length >= 3"),
        ({"classes": "road"}, "x: classes: expected array, got str"),
        ({"iteration": 1.5}, "x: iteration: expected int, got float"),
        ({"scores": {"mIoU": None}}, r"x: scores\[...\]: expected float, got null"),
        ({"recipe": []}, "x: recipe: expected object, got array"),
        ({"extra": 1}, "x: unknown entries extra"),
    ],
)
def test_a_header_of_wrong_types_is_refused(change: dict[str, Any], sentence: str) -> None:
    header = {
        "paper": "tiny",
        "recipe_name": "toy",
        "recipe": {},
        "classes": ["road"],
        "palette": [[1, 2, 3]],
        "iteration": 1,
        "scores": {},
        "versions": {},
    }
    assert from_json(CheckpointMeta, json.dumps(header), "x").classes == ["road"]
    with pytest.raises(InputError, match=sentence):
        from_json(CheckpointMeta, json.dumps({**header, **change}), "x")


def test_what_was_read_is_written_whole() -> None:
    complete = to_plain(RECIPE.data)
    short = {name: value for name, value in complete.items() if name == "dataset"}
    assert set(to_plain(from_plain(Data, short))) == set(complete)
