"""A training run as one HTML page: curves, scores per class, gallery, recipe. `build.py` is the way in."""
