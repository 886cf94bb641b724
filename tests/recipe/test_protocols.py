"""The papers' data settings, row by row of the tables in docs/protocol 2.1 and 3.4."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segcore.data import DATASETS
from segcore.recipe import MS_RATIOS, Data, Evaluate
from segcore.recipe import protocols as fragments
from segcore.recipe.protocols import Fragment

FRAGMENTS = {name: value for name, value in vars(fragments).items() if isinstance(value, Fragment)}


@pytest.mark.parametrize(
    ("name", "dataset", "crop", "scale", "ratio"),
    [
        ("ADE20K_512", "ade20k", (512, 512), (2048, 512), (0.5, 2.0)),
        ("ADE20K_576", "ade20k", (576, 576), (2048, 576), (0.5, 2.0)),
        ("ADE20K_480", "ade20k", (480, 480), (2048, 512), (0.5, 2.0)),
        ("CITYSCAPES", "cityscapes", (512, 1024), (2048, 1024), (0.5, 2.0)),
        ("BDD100K", "bdd100k", (512, 1024), (1280, 720), (0.5, 2.0)),
        ("PASCAL_CONTEXT_59", "pascal_context_59", (480, 480), (520, 520), (0.5, 2.0)),
        ("PASCAL_CONTEXT_60", "pascal_context_60", (480, 480), (520, 520), (0.5, 2.0)),
        ("COCO_STUFF_10K", "coco_stuff_10k", (512, 512), (2048, 512), (0.5, 2.0)),
        ("COCO_STUFF_10K_182", "coco_stuff_10k_182", (512, 512), (2048, 512), (0.5, 2.0)),
        ("LIP", "lip", (473, 473), (520, 520), (0.75, 1.25)),
    ],
)
def test_training_settings_are_those_of_the_papers(
    name: str, dataset: str, crop: tuple[int, int], scale: tuple[int, int], ratio: tuple[float, float]
) -> None:
    fragment = FRAGMENTS[name]
    assert fragment.data.dataset == dataset
    augment = fragment.augment
    assert (augment.crop, augment.scale, augment.ratio) == (crop, scale, ratio)
    assert augment.keep_ratio == (name != "LIP")
    assert (augment.rotation, augment.family) == ((0.6, "S") if name == "LIP" else (0.0, "M"))
    assert augment.cat_max_ratio == 0.75
    assert fragment.evaluate.scale == ((473, 473) if name == "LIP" else scale)


def test_every_fragment_is_of_a_data_set_that_exists() -> None:
    assert {fragment.data.dataset for fragment in FRAGMENTS.values()} <= set(DATASETS)


def test_windows_are_those_of_the_papers() -> None:
    slide = {
        (512, 384): fragments.ADE20K_512.slide(384),  # IIWA S, B
        (576, 384): fragments.ADE20K_576.slide(384),
        (480, 320): fragments.PASCAL_CONTEXT_59.slide(320),  # IIWA, ECFD
        (480, 160): fragments.ADE20K_480.slide(160, pad_window=True),  # UN-EPT
    }
    for (crop, stride), fragment in slide.items():
        protocol = fragment.evaluate
        assert (protocol.mode, protocol.crop, protocol.stride) == ("slide", (crop, crop), (stride, stride))
        assert protocol.pad_window == (crop == 480 and stride == 160)
    city = fragments.CITYSCAPES.slide((256, 512)).evaluate
    assert (city.crop, city.stride, city.scale) == ((512, 1024), (256, 512), (2048, 1024))


def test_memorynet_tests_single_scale_on_logits_and_multi_scale_on_probabilities() -> None:
    single = fragments.ADE20K_MEMORYNET.evaluate
    assert (single.family, single.mode, single.probabilities, single.ratios) == ("S", "whole", False, (1.0,))
    several = single.with_augmentation()
    assert (several.mode, several.probabilities, several.ratios, several.flip) == ("whole", True, MS_RATIOS, True)


def test_hrnet_slides_under_aug_test_only() -> None:
    fragment = fragments.COCO_STUFF_10K_MEMORYNET.testing(
        aug_mode="slide", crop=(512, 512), stride=(341, 341), aug_ratios=fragments.FIVE_RATIOS
    )
    assert fragment.evaluate.mode == "whole"
    several = fragment.evaluate.with_augmentation()
    assert (several.mode, several.crop, several.stride) == ("slide", (512, 512), (341, 341))
    assert several.ratios == (0.5, 0.75, 1.0, 1.25, 1.5)


def test_cityscapes_windows_of_memorynet_are_taller_than_wide() -> None:
    fragment = fragments.CITYSCAPES_MEMORYNET
    assert (fragment.augment.crop, fragment.augment.family) == ((512, 1024), "S")
    assert (fragment.evaluate.crop, fragment.evaluate.stride) == ((1024, 512), (341, 341))
    assert fragment.evaluate.probabilities
    assert (fragment.data.train_split, fragment.data.test_split) == ("trainval", "test")


def test_lip_is_tested_with_flip_only_on_logits() -> None:
    several = fragments.LIP.evaluate.with_augmentation()
    assert (several.ratios, several.flip, several.probabilities) == ((1.0,), True, False)
    assert several.flip_pairs == fragments.LIP.augment.flip_pairs == ((14, 15), (16, 17), (18, 19))
    assert not several.keep_ratio


def test_coarse_training_joins_the_coarse_set_and_the_fine_one_once() -> None:
    assert fragments.CITYSCAPES_COARSE.data.train_split == "train_extra+train"


def test_family_m_keeps_its_probabilities_under_aug_test() -> None:
    several = Evaluate(probabilities=False).with_augmentation()
    assert (several.probabilities, several.mode) == (False, "whole")


def test_fragments_change_only_what_is_asked() -> None:
    changed = fragments.BDD100K.splits("train+val", "test")
    assert changed.data == Data(dataset="bdd100k", train_split="train+val", test_split="test")
    assert (changed.augment, changed.evaluate) == (fragments.BDD100K.augment, fragments.BDD100K.evaluate)


def test_fragments_need_no_torch() -> None:
    code = "import sys, segcore.recipe.protocols; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
