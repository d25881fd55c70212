"""The report: a plan as one HTML page that needs no network."""

from aiq.report.document import document
from aiq.report.measured import Comparable, MeasuredTimes
from aiq.report.page import frame, html

__all__ = ["Comparable", "MeasuredTimes", "document", "frame", "html"]
