"""Measure how good synthesized images are, beside real ones.

>>> from m2l_train.evaluate import EvaluationOptions, evaluate_bundle, evaluate_images, train_segmenter
>>> report = train_segmenter("data", "segmenter.pt")  # doctest: +SKIP
>>> found = evaluate_images("lesions", "data", EvaluationOptions(segmenter="segmenter.pt"))  # doctest: +SKIP
>>> found.figures["dice"].value, found.figures["dice"].real.value  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2l_runtime._utils.imports import lazy_attributes

if TYPE_CHECKING:
    from m2l_train.evaluate.comparison import compare_bundles
    from m2l_train.evaluate.evaluation import evaluate_bundle, evaluate_images
    from m2l_train.evaluate.html_report.options import ReportOptions
    from m2l_train.evaluate.html_report.page import write_report
    from m2l_train.evaluate.options import EvaluationOptions
    from m2l_train.evaluate.result import ComparedMetric, Comparison, Evaluation, Metric, to_json
    from m2l_train.evaluate.segmenter import Segmenter, load_segmenter
    from m2l_train.evaluate.shipped import SHIPPED_SEGMENTER
    from m2l_train.evaluate.training import SegmenterOptions, SegmenterReport, train_segmenter
    from m2l_train.evaluate.usefulness.experiment import UsefulnessReport, evaluate_usefulness
    from m2l_train.evaluate.usefulness.own_pairs import OwnPairs, write_own_pairs
    from m2l_train.evaluate.usefulness.plan import UsefulnessCallbacks, UsefulnessOptions
    from m2l_train.evaluate.usefulness.result import Usefulness, usefulness_to_json

_HOMES = {
    "ComparedMetric": "result",
    "Comparison": "result",
    "Evaluation": "result",
    "EvaluationOptions": "options",
    "Metric": "result",
    "OwnPairs": "usefulness.own_pairs",
    "ReportOptions": "html_report.options",
    "SHIPPED_SEGMENTER": "shipped",
    "Segmenter": "segmenter",
    "SegmenterOptions": "training",
    "SegmenterReport": "training",
    "Usefulness": "usefulness.result",
    "UsefulnessCallbacks": "usefulness.plan",
    "UsefulnessOptions": "usefulness.plan",
    "UsefulnessReport": "usefulness.experiment",
    "compare_bundles": "comparison",
    "evaluate_bundle": "evaluation",
    "evaluate_images": "evaluation",
    "evaluate_usefulness": "usefulness.experiment",
    "load_segmenter": "segmenter",
    "to_json": "result",
    "train_segmenter": "training",
    "usefulness_to_json": "usefulness.result",
    "write_own_pairs": "usefulness.own_pairs",
    "write_report": "html_report.page",
}

__all__ = [
    "SHIPPED_SEGMENTER",
    "ComparedMetric",
    "Comparison",
    "Evaluation",
    "EvaluationOptions",
    "Metric",
    "OwnPairs",
    "ReportOptions",
    "Segmenter",
    "SegmenterOptions",
    "SegmenterReport",
    "Usefulness",
    "UsefulnessCallbacks",
    "UsefulnessOptions",
    "UsefulnessReport",
    "compare_bundles",
    "evaluate_bundle",
    "evaluate_images",
    "evaluate_usefulness",
    "load_segmenter",
    "to_json",
    "train_segmenter",
    "usefulness_to_json",
    "write_own_pairs",
    "write_report",
]

if not TYPE_CHECKING:  # a type checker reads the imports above
    __getattr__ = lazy_attributes(
        __name__,
        _HOMES,
        needs=("torch", "scipy", "skimage", "jinja2", "matplotlib"),
        hint='evaluating needs {}, which is not installed: pip install "m2l[evaluate]"',
        renamed={"Figure": "Metric", "Options": "EvaluationOptions"},
    )
