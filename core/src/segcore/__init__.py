"""What five semantic-segmentation papers share: data sets, backbones, training, evaluation."""

__version__ = "0.1.0"
