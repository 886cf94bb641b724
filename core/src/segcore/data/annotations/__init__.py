"""Annotations of the common tools -> label maps: what `segcore data import` reads.

One file per format gives `Annotations`: classes, and pictures with shapes that say how they are drawn; `drawing` makes
label maps of them. Worker processes import these files, so none of them imports torch.
"""
