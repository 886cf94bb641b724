"""A training run as one HTML page: curves, scores per class, gallery, recipe."""

from segcore.report.page import render, write_report
from segcore.report.run_report import Picture, RunReport, Series, collect

__all__ = ["Picture", "RunReport", "Series", "collect", "render", "write_report"]
