"""Analysis: what a model costs, in parameters, multiply-accumulates, bytes and milliseconds.

>>> import keras
>>> from tfcompress import analysis
>>> x = keras.Input((8, 8, 3))
>>> model = keras.Model(x, keras.layers.Conv2D(4, 3, padding="same")(x))
>>> analysis.macs(model)
6912
>>> analysis.summary(model).totals["params"]
112
"""

from tfcompress.analysis.bit_sensitivity import bit_sensitivity
from tfcompress.analysis.costs import Costs, costs, macs, macs_by_weight
from tfcompress.analysis.energy import Energy, Hardware, energy, energy_by_shapes
from tfcompress.analysis.flops_regularized import FlopsRegularized
from tfcompress.analysis.latency import Latency, latency, latency_ratio
from tfcompress.analysis.latency_table import LatencyTable
from tfcompress.analysis.mac_rules import MacRule, at_inputs, at_outputs, at_time_steps, register
from tfcompress.analysis.oracle import Oracle
from tfcompress.analysis.plots import runs_by_method, sensitivity_curves, sorted_scores
from tfcompress.analysis.rank_correlation import RankCorrelation, rank_correlation
from tfcompress.analysis.sensitivity import sensitivity
from tfcompress.analysis.steps import Step
from tfcompress.analysis.summary import Summary, summary

__all__ = [
    "Costs",
    "Energy",
    "FlopsRegularized",
    "Hardware",
    "Latency",
    "LatencyTable",
    "MacRule",
    "Oracle",
    "RankCorrelation",
    "Step",
    "Summary",
    "at_inputs",
    "at_outputs",
    "at_time_steps",
    "bit_sensitivity",
    "costs",
    "energy",
    "energy_by_shapes",
    "latency",
    "latency_ratio",
    "macs",
    "macs_by_weight",
    "rank_correlation",
    "register",
    "runs_by_method",
    "sensitivity",
    "sensitivity_curves",
    "sorted_scores",
    "summary",
]
