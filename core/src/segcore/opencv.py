"""OpenCV, or one sentence that says how to get it: every module takes `cv2` from here."""

from __future__ import annotations

from segcore.errors import InputError

try:
    import cv2
except ImportError as error:
    raise InputError(
        f"OpenCV cannot be loaded ({error}); `pip install opencv-python`, or on a machine without a display's "
        "libraries such as libGL `pip uninstall opencv-python` and `pip install opencv-python-headless` in its place"
    ) from error

__all__ = ["cv2"]
