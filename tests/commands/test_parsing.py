"""The command line: overrides, spellings, help, mistakes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from segcore.commands.foreign import ELSEWHERE
from segcore.commands.main import COMMANDS
from segcore.commands.main import main as segcore_main
from segcore.commands.parsing import _option_types, parse_recipe
from segcore.commands.predict import PredictOptions
from segcore.commands.recipes import recipe_table
from segcore.commands.running import run_guarded
from segcore.commands.test import TestOptions
from segcore.errors import InputError
from segcore.recipe.file import recipe_document
from tests.recipe.test_recipe import PAPER, RECIPE


def test_options_override_the_recipe() -> None:
    words = ["toy", "--model.band", "3", "--run.data", "/d", "--optim.lr-mult", "head=5", "norm=0.5"]
    request = parse_recipe("band-train", PAPER, words)
    assert request is not None
    assert request.recipe.model.band == 3  # pyright: ignore[reportAttributeAccessIssue]
    assert request.recipe.run.data == "/d"
    assert request.recipe.optim.lr_mult == {"head": 5.0, "norm": 0.5}
    assert request.recipe.augment == RECIPE.augment


def test_the_originals_flags_work_without_their_section() -> None:
    words = ["toy", "--work-dir", "w", "--seed", "7", "--deterministic", "--load-from", "a.pth", "--resume"]
    request = parse_recipe("band-train", PAPER, words)
    assert request is not None
    run = request.recipe.run
    assert (run.work_dir, run.seed, run.deterministic, run.load_from, run.resume) == ("w", 7, True, "a.pth", True)


def test_the_work_directory_is_named_after_paper_and_recipe() -> None:
    request = parse_recipe("band-train", PAPER, ["toy"])
    assert request is not None
    assert request.recipe.run.work_dir == "work_dirs/band-toy"


def test_test_options_stand_beside_the_recipe() -> None:
    words = ["toy", "best.safetensors", "--aug-test", "--eval", "mIoU", "mDice", "--show-dir", "s", "--opacity", "0.3"]
    request = parse_recipe("band-test", PAPER, words, TestOptions)
    assert request is not None
    assert request.options == TestOptions(
        checkpoint="best.safetensors", aug_test=True, eval=("mIoU", "mDice"), show_dir="s", opacity=0.3
    )


def test_predict_takes_several_inputs() -> None:
    request = parse_recipe(
        "band-predict", PAPER, ["toy", "c.safetensors", "a.jpg", "b.jpg", "--out", "o"], PredictOptions
    )
    assert request is not None
    assert (request.options.inputs, request.options.out) == (("a.jpg", "b.jpg"), "o")


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "on"])
def test_booleans_are_read_in_any_spelling(word: str) -> None:
    request = parse_recipe("band-train", PAPER, ["toy", "--run.compile", word, "--model.pretrained", "false"])
    assert request is not None
    assert request.recipe.run.compile
    assert not request.recipe.model.pretrained


def test_a_saved_recipe_is_accepted_instead_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(recipe_document("band", "toy", RECIPE, {}))
    request = parse_recipe("band-train", PAPER, [str(tmp_path), "--model.band", "5"])
    assert request is not None
    assert (request.name, request.recipe.model.band) == ("toy", 5)  # pyright: ignore[reportAttributeAccessIssue]


def test_an_unknown_recipe_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"no recipe 'toi'.*did you mean toy"):
        parse_recipe("band-train", PAPER, ["toi"])


def test_an_option_before_the_recipe_is_explained() -> None:
    with pytest.raises(InputError, match="first argument must be a recipe"):
        parse_recipe("band-train", PAPER, ["--run.seed", "1"])


def test_weights_in_the_place_of_the_recipe_are_explained() -> None:
    with pytest.raises(
        InputError, match=r"best\.safetensors holds weights: name the recipe before it, or use `segcore test`"
    ):
        parse_recipe("band-test", PAPER, ["work_dirs/best.safetensors"], TestOptions)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["toy", "--optm.lr", "1"], "--optim.lr"),
        (["toy", "--run.amp", "bf8"], "bf16"),
        (["toy", "--optim.lr-mult", "head"], "NAME=FACTOR"),
    ],
)
def test_a_wrong_option_exits_with_2_and_a_hint(
    words: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_recipe("band-train", PAPER, words)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert hint in printed.out + printed.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--iters", "5"], "there is no --iters here; it is --schedule.iterations"),
        (["--batch_size=4"], "there is no --batch-size here; it is --data.batch (images of all processes together)"),
        (["--run.seed", "1", "--lr", "1"], "there is no --lr here; it is --optim.lr"),
        (["--crop", "8", "8"], "there is no --crop here; it is --augment.crop or --evaluate.crop"),
        (["--eval-metric", "mIoU"], "there is no --eval-metric here; it is --eval of <paper>-test"),
        (["--gpus", "4"], "there is no --gpus here; start several processes with torchrun"),
        (["--config", "x.py"], "there is no --config here; name a recipe as the first word"),
        (["--checkpoint", "x.pth"], "there is no --checkpoint here; give the checkpoint as a word"),
    ],
)
def test_options_of_the_originals_get_a_suggestion(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        parse_recipe("band-train", PAPER, ["toy", *words])
    assert str(error.value).startswith(sentence)


def test_what_stands_for_an_option_of_others_is_there_and_the_other_is_not() -> None:
    known = {*_option_types(RECIPE), *_option_types(TestOptions)}
    for name, ours in ELSEWHERE.items():
        assert name not in known
        assert not ours.startswith("--") or ours.split()[0] in known


def test_a_warmup_longer_than_the_run_is_refused_unless_a_try_cuts_the_run_short() -> None:
    with pytest.raises(InputError, match=r"--schedule\.warmup must not be longer than the 10 iterations .* got 11"):
        parse_recipe("band-train", PAPER, ["toy", "--schedule.warmup", "11"])
    warming = replace(RECIPE, schedule=replace(RECIPE.schedule, warmup=8))
    paper = replace(PAPER, recipes={"toy": warming})
    request = parse_recipe("band-train", paper, ["toy", "--schedule.iterations", "2"])
    assert request is not None
    assert (request.recipe.schedule.iterations, request.recipe.schedule.warmup) == (2, 8)
    with pytest.raises(InputError, match=r"--schedule\.warmup"):
        parse_recipe("band-train", paper, ["toy", "--schedule.iterations", "2", "--schedule.warmup", "9"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--optim.lr", "-1"], "--optim.lr must be positive, got -1.0"),
        (["--optim.lr", "nan"], "--optim.lr must be a finite 64-bit number, got nan"),
        (["--optim.lr", "1e400"], "--optim.lr must be a finite 64-bit number, got inf"),
        (["--optim.lr-mult", "head=nan"], "--optim.lr-mult must be a finite 64-bit number, got {'head': nan}"),
        (["--run.keep", "9" * 20], "--run.keep must be a finite 64-bit number, got 99999999999999999999"),
        (["--evaluate.aug-ratios", "0"], "--evaluate.aug-ratios must be positive, got (0.0,)"),
        (["--evaluate.flip-pairs", "14", "-15"], "--evaluate.flip-pairs must not be negative, got ((14, -15),)"),
        (["--augment.flip-pairs", "-1", "2"], "--augment.flip-pairs must not be negative, got ((-1, 2),)"),
        (["--loss.ohem-threshold", "-3"], "--loss.ohem-threshold must be in [0, 1], got -3.0"),
        (["--loss.auxiliary", "-1"], "--loss.auxiliary must not be negative, got -1.0"),
        (["--schedule.warmup-ratio", "-4"], "--schedule.warmup-ratio must be in [0, 1], got -4.0"),
        (["--schedule.gamma", "-1"], "--schedule.gamma must be positive, got -1.0"),
        (["--schedule.min-lr", "-1"], "--schedule.min-lr must not be negative, got -1.0"),
    ],
)
def test_an_impossible_value_is_the_sentence_of_its_check(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        parse_recipe("band-train", PAPER, ["toy", *words])
    assert str(error.value) == sentence


@pytest.mark.parametrize("words", [["--help"], ["--list"]])
def test_help_and_list_print_every_recipe(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_recipe("band-train", PAPER, words) is None
    assert recipe_table(PAPER).splitlines()[2] in capsys.readouterr().out


def test_input_errors_become_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def body(_: list[str]) -> int:
        raise InputError("a.png: cannot be read")

    assert run_guarded("band-train", ["toy"], body) == 2
    assert capsys.readouterr().err == "band-train: a.png: cannot be read\n"
    assert run_guarded("band-train", ["toy", "--debug"], body) == 2
    assert "Traceback" in capsys.readouterr().err


def test_segcore_lists_its_commands_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert segcore_main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name}" in printed for name in COMMANDS)
    assert segcore_main(["dat"]) == 2
    assert "did you mean data?" in capsys.readouterr().err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_segcore_command_explains_itself_without_torch(command: str) -> None:
    code = (
        "import sys; from segcore.commands.main import main\n"
        f"try: code = main([{command!r}, '--help'])\n"
        "except SystemExit as stop: code = stop.code\n"
        "sys.exit(code or ('torch' in sys.modules) * 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()
