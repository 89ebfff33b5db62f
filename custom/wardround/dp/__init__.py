"""Differential privacy: mechanisms, accounting, and a hospital's ledger and budget.

It knows nothing of secure aggregation.
"""
