"""What every paper's network must be to a program of the user's: by name, in a loop of one's own, in folders."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import segcore
from segcore.evaluation.inference import whole
from segcore.hub.origin import conditions
from segcore.paper import Paper
from segcore.segmentor import Segmentor
from segcore.training.batches import target_of_labels
from tests.contract.conftest import PAPERS, Run

CLASSES = 5
STEP = segcore.StepInfo(iteration=0, total=10, lr=1e-3)


def network(paper: str) -> Segmentor:
    """Return the network of the paper's smallest recipe."""
    torch.manual_seed(0)
    return segcore.create_model(f"{paper}-toy", num_classes=CLASSES)


def batch(*size: int) -> tuple[Tensor, Tensor]:
    """Return two images and their labels, the left half of one class and the right half of another."""
    label = torch.zeros(2, *size, dtype=torch.int64)
    label[..., size[1] // 2 :] = 3
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)), label


def own_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Return what a program of the user's may train on."""
    return F.cross_entropy(F.interpolate(logits, label.shape[-2:], mode="bilinear"), label)


def test_every_recipe_has_a_name(paper: Paper) -> None:
    assert segcore.list_models(f"{paper.name}-*") == [f"{paper.name}-{name}" for name in paper.recipes]


def test_a_network_has_the_same_attributes_in_every_paper(paper: Paper) -> None:
    model, image = network(paper.name).eval(), batch(64, 96)[0]
    legal = torch.zeros(1, 3, *model.legal_size(64, 96))
    with torch.inference_mode():
        maps = model.backbone(legal)
        logits = model.logits(image)
        torch.testing.assert_close(logits, whole(model, image))
    assert [level.shape[1] for level in maps] == list(model.backbone.channels)  # pyright: ignore
    assert [-(-legal.shape[2] // level.shape[2]) for level in maps] == list(model.backbone.strides)  # pyright: ignore
    assert logits.shape == (2, CLASSES, 64, 96)
    assert model.num_classes == CLASSES
    assert sum(1 for _ in model.head.parameters()) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_made_half_computes(paper: Paper, dtype: torch.dtype) -> None:
    model, image = network(paper.name).eval(), batch(64, 96)[0]
    with torch.inference_mode():
        full = model(image)
        half = model.to(dtype)(image.to(dtype))
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    assert half.dtype == dtype
    assert (half.float() - full).abs().mean() < 0.02 * full.std()


def test_only_what_is_named_has_no_gradient_in_a_loss_of_ones_own(paper: Paper) -> None:
    model = network(paper.name)
    image, label = batch(64, 64)
    own_loss(model(image), label).backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unused == set(model._ddp_params_and_buffers_to_ignore)


def _train_in_a_process(rank: int, folder: str) -> None:
    """Train two steps of every paper on half of a batch, as one of two processes, and save the weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    weights = {}
    for paper in PAPERS:
        model = DistributedDataParallel(network(paper))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):  # the second forward is where torch misses a gradient of the first
            image, label = (torch.cat([part, part.flip(-1)])[2 * rank : 2 * rank + 2] for part in batch(64, 64))
            optimizer.zero_grad()
            own_loss(model(image), label).backward()
            optimizer.step()
        weights[paper] = dict(model.module.named_parameters())
    torch.save(weights, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="package")
def weights_of_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """The weights of every paper, as either of two processes ends with them."""
    folder = tmp_path_factory.mktemp("processes")
    # spawned once for all papers, not forked: a fork lacks the threads that IIWA's matching has started
    spawn(_train_in_a_process, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_train_on_a_loss_of_ones_own(
    paper: Paper, weights_of_processes: list[dict[str, dict[str, Tensor]]]
) -> None:
    start = dict(network(paper.name).named_parameters())
    one, two = (weights[paper.name] for weights in weights_of_processes)
    for name in start:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=0, msg=name)
    assert any(not torch.equal(one[name], start[name]) for name in start)


def test_the_papers_losses_need_no_more_than_a_label(paper: Paper) -> None:
    model = network(paper.name)
    image, label = batch(64, 64)
    complete = target_of_labels(label, paper.map_source(paper.recipes["toy"]))
    torch.manual_seed(1)
    given = copy.deepcopy(model).losses(image, segcore.Target(label), STEP)
    torch.manual_seed(1)
    expected = model.losses(image, complete, STEP)
    torch.testing.assert_close(given, expected, rtol=0, atol=0)


def test_parameter_groups_are_those_of_the_recipe_but_for_what_is_changed(paper: Paper) -> None:
    model = network(paper.name)
    groups = segcore.parameter_groups(model, lr=0.5, lr_mult={"backbone": 0.1})
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == sum(parameter.requires_grad for parameter in model.parameters())
    assert {group["lr"] for group in groups} == {0.5, 0.05}
    slow = {parameter for group in groups for parameter in group["params"] if group["lr_mult"] == 0.1}
    assert set(model.backbone.parameters()) & slow
    torch.optim.AdamW(groups)


def test_a_saved_network_comes_back_with_its_card(paper: Paper, tmp_path: Path) -> None:
    model = network(paper.name)
    names = [f"sort {i}" for i in range(CLASSES)]
    assert model.save_pretrained(tmp_path / "net", classes=names, license="cc0-1.0") == tmp_path / "net"
    predictor = segcore.Predictor.from_pretrained(tmp_path / "net", device="cpu")
    assert predictor.classes.names == tuple(names)
    torch.testing.assert_close(predictor.model.state_dict(), model.state_dict(), rtol=0, atol=0)
    card = (tmp_path / "net" / "README.md").read_text("utf-8")
    for part in (paper.title, paper.citation.strip(), paper.proven, "sort 4", "license: cc0-1.0"):
        assert part in card


def test_a_run_comes_back_with_its_scores(finished_run: Run, tmp_path: Path) -> None:
    predictor = segcore.Predictor.from_pretrained(finished_run.folder, device="cpu")
    assert predictor(np.zeros((40, 50, 3), np.uint8)).label.shape == (40, 50)
    assert isinstance(predictor.model, Segmentor)
    card = (predictor.model.save_pretrained(tmp_path) / "README.md").read_text("utf-8")
    score = predictor.model.known_origin().meta.scores["mIoU"]
    where = conditions("toy", "val", finished_run.recipe.evaluate)
    assert f"| mIoU | {100 * score:.2f} | {where}; last validation |" in card
    assert str(finished_run.folder) not in card + (tmp_path / "config.json").read_text("utf-8")
