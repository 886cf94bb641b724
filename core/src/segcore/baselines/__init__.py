"""What people pick instead of the papers, by the same interface: FCN, decoders of segmentation_models_pytorch."""
