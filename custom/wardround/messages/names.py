"""The words that a site may use in a message: which models it scored, by which metrics, and over how many patients at least.

Reports show what is listed here; a new column of a report does not widen what leaves a site.
"""

from __future__ import annotations

CANDIDATES = ("local", "fedavg", "fedavg_finetuned", "personalised")
"""The models that a site compares, the simplest first."""

REGIONS = ("ET", "TC", "WT")
APART = ("surface_mm", "missed", "invented")
SEGMENTATION = tuple(f"{measure}_{region}" for measure in ("dice", "hd95_mm") for region in ("mean", *REGIONS))
CLASSIFICATION = ("balanced_accuracy", "accuracy", "auroc", "calibration_error", "log_loss")
METRICS = (*SEGMENTATION, *(f"{measure}_{region}" for measure in APART for region in REGIONS), *CLASSIFICATION)

LABEL_KINDS = ("brats", "whole_tumour")
"""What masks at a site distinguish: the three regions of a tumour, or the whole of it only."""

LEAST_PATIENTS = 5
"""No statistic over fewer patients leaves: few_patients.py says why 5."""
