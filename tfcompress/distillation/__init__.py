"""Distillation: a small model learns from what a large one says (`Distiller`), by losses one file each."""

from tfcompress.distillation.attention import AttentionTransfer, GradientAttention, GradientSymmetry
from tfcompress.distillation.decoupled import DecoupledTargets
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.hints import Hints
from tfcompress.distillation.loss import DistillationLoss, FeatureLoss
from tfcompress.distillation.neuron_selection import NeuronSelection, SelectedNeurons, select_neurons
from tfcompress.distillation.outputs import OutputLoss
from tfcompress.distillation.relations import (
    NeuronSelectivity,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from tfcompress.distillation.soft_targets import SoftTargets
from tfcompress.distillation.teacher import Teacher

__all__ = [
    "AttentionTransfer",
    "DecoupledTargets",
    "DistillationLoss",
    "Distiller",
    "FeatureLoss",
    "GradientAttention",
    "GradientSymmetry",
    "Hints",
    "NeuronSelection",
    "NeuronSelectivity",
    "OutputLoss",
    "RelationalAngle",
    "RelationalDistance",
    "SelectedNeurons",
    "SimilarityPreserving",
    "SoftTargets",
    "Teacher",
    "select_neurons",
]
