"""What every paper's network must do: learn, take any size and class number, survive files and compilers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from segcore.build import build_from_checkpoint, fine_tune_from, for_inference, model_for_checkpoint
from segcore.data.labels import IGNORE
from segcore.evaluation.inference import whole
from segcore.paper import Paper
from segcore.segmentor import Segmentor, StepInfo
from segcore.training.batches import target_of_labels
from segcore.training.trainer import Trainer
from tests.contract.conftest import Run, small_recipe

CLASSES = 8


def _image(*size: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def _build(paper: Paper, tmp_path: Path, num_classes: int = CLASSES) -> Segmentor:
    """Return the network with weights and statistics that differ from tensor to tensor, in evaluation mode."""
    torch.manual_seed(0)
    model = paper.build(small_recipe(paper, tmp_path), num_classes).eval()
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
    return model


def test_the_loss_falls_on_one_batch(trainer: Trainer) -> None:
    part = next(trainer.batches())
    trainer.model.train()
    losses = [float(trainer.step([part])["loss"].item()) for _ in range(12)]
    assert all(math.isfinite(loss) for loss in losses)
    assert min(losses[-3:]) < 0.75 * losses[0], losses


def test_every_parameter_that_trains_gets_a_gradient(trainer: Trainer) -> None:
    image, target = next(trainer.batches()).to("cpu")
    trainer.model.train()
    trainer.model.losses(image, target, StepInfo(0, 10, 1e-3)).total().backward()
    unused = [name for name, p in trainer.model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []


def test_a_batch_without_any_label_gives_a_finite_loss(trainer: Trainer) -> None:
    image, target = next(trainer.batches()).to("cpu")
    unlabeled = target._replace(label=torch.full_like(target.label, IGNORE))
    trainer.model.train()
    terms, logged = trainer.model.losses(image, unlabeled, StepInfo(0, 10, 1e-3))
    assert all(torch.isfinite(value).all() for value in (*terms.values(), *logged.values())), terms


@pytest.mark.parametrize("size", [(33, 47), (65, 31), (64, 96), (97, 130)])
def test_any_image_size_gives_logits_for_every_pixel(paper: Paper, tmp_path: Path, size: tuple[int, int]) -> None:
    model = _build(paper, tmp_path)
    with torch.inference_mode():
        logits = whole(model, _image(*size))
    assert logits.shape == (1, CLASSES, *size)
    assert torch.isfinite(logits).all()


def test_the_form_that_is_tested_is_the_network_without_its_norms(paper: Paper, tmp_path: Path) -> None:
    model = _build(paper, tmp_path)
    run = small_recipe(paper, tmp_path).run
    folded = for_inference(model, run)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert for_inference(model, replace(run, exact=True)) is model
    with torch.inference_mode():
        expected, logits = model(_image(65, 96)), folded(_image(65, 96))
        assert (logits - expected).abs().max() <= 1e-4 * expected.std()
        folded = for_inference(model.train(), run)  # as validation does, which must leave training alone
    assert model.training
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_a_square_and_a_portrait_image_train(paper: Paper, tmp_path: Path) -> None:
    model = _build(paper, tmp_path).train()
    for size in ((64, 64), (96, 65)):
        label = torch.randint(0, CLASSES, (2, *size), generator=torch.Generator().manual_seed(0))
        target = target_of_labels(label, paper.map_source(small_recipe(paper, tmp_path)))
        terms, logged = model.losses(_image(*size, batch=2), target, StepInfo(0, 10, 1e-3))
        assert all(torch.isfinite(value).all() for value in (*terms.values(), *logged.values()))


@pytest.mark.parametrize("num_classes", [1, 2, 19])
def test_any_number_of_classes(paper: Paper, tmp_path: Path, num_classes: int) -> None:
    model = _build(paper, tmp_path, num_classes)
    assert model.num_classes == num_classes
    with torch.inference_mode():
        assert model(_image(64, 64)).shape[1] == num_classes


def test_an_image_gets_the_same_logits_alone_and_in_a_batch(paper: Paper, tmp_path: Path) -> None:
    model, batch = _build(paper, tmp_path), _image(64, 96, batch=3)
    with torch.inference_mode():
        together = model(batch)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], model(batch[i : i + 1]), rtol=1e-4, atol=1e-5)


def test_evaluation_does_not_change_the_network(paper: Paper, tmp_path: Path) -> None:
    model = _build(paper, tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        first, second = model(_image(64, 64)), model(_image(64, 64))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_saved_weights_give_the_same_logits(finished_run: Run) -> None:
    weights = finished_run.folder / "last.safetensors"
    alone = build_from_checkpoint(weights)
    given = model_for_checkpoint(finished_run.paper, finished_run.recipe, CLASSES, weights)
    assert alone.meta.iteration == finished_run.recipe.schedule.iterations
    assert alone.recipe.model == finished_run.recipe.model
    with torch.inference_mode():
        torch.testing.assert_close(alone.model.eval()(_image(64, 96)), given.eval()(_image(64, 96)), rtol=0, atol=0)


def test_published_names_round_trip_through_a_pth_file(paper: Paper, tmp_path: Path) -> None:
    model = _build(paper, tmp_path)
    names = paper.name_map(model)
    tensors = names.export(model)
    assert len({names.to_published(name) for name in model.state_dict()}) == len(model.state_dict())  # none collide
    torch.save({"meta": {"CLASSES": ("a",) * CLASSES}, "state_dict": tensors}, tmp_path / "published.pth")
    recipe = small_recipe(paper, tmp_path)
    loaded = model_for_checkpoint(paper, recipe, CLASSES, tmp_path / "published.pth").eval()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(_image(64, 64)), model(_image(64, 64)), rtol=0, atol=0)


def test_fine_tuning_to_other_classes_keeps_all_but_the_classifier(finished_run: Run, tmp_path: Path) -> None:
    weights = finished_run.folder / "last.safetensors"
    old = build_from_checkpoint(weights).model
    new = fine_tune_from(finished_run.paper, finished_run.recipe, 5, weights)
    assert new.num_classes == 5
    changed = {name for name, tensor in new.state_dict().items() if tensor.shape != old.state_dict()[name].shape}
    assert changed
    assert all(name.startswith(new.classifiers) for name in changed)
    for name, tensor in new.state_dict().items():
        if name not in changed:
            torch.testing.assert_close(tensor, old.state_dict()[name], rtol=0, atol=0, msg=name)


def test_a_network_can_be_made_without_memory(paper: Paper, tmp_path: Path) -> None:
    recipe = small_recipe(paper, tmp_path)
    recipe = replace(recipe, model=replace(recipe.model, pretrained=False))
    with torch.device("meta"):
        model = paper.build(recipe, CLASSES)
    assert all(parameter.is_meta for parameter in model.parameters())


def _assert_same_logits(other: Callable[[Tensor], Tensor], model: Segmentor, image: Tensor) -> None:
    with torch.inference_mode():
        torch.testing.assert_close(other(image), model(image), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [pytest.param((64, 96), marks=pytest.mark.slow), (65, 97)])
def test_the_graph_is_one_piece_and_equals_eager(paper: Paper, tmp_path: Path, size: tuple[int, int]) -> None:
    torch.compiler.reset()
    model = _build(paper, tmp_path)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    _assert_same_logits(compiled, model, _image(*size))


@pytest.mark.slow
def test_compiled_code_equals_eager(paper: Paper, tmp_path: Path) -> None:
    torch.compiler.reset()
    model = _build(paper, tmp_path)
    compiled = torch.compile(model, fullgraph=True)
    _assert_same_logits(compiled, model, _image(64, 96))


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_the_exported_program_equals_eager(paper: Paper, tmp_path: Path, size: tuple[int, int]) -> None:
    model = _build(paper, tmp_path)
    program = torch.export.export(model, (_image(*size),))
    _assert_same_logits(program.module(), model, _image(*size))
