"""What five semantic-segmentation papers share: data sets, backbones, training, evaluation."""

__version__ = "0.2.0"
