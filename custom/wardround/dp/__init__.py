"""Differential privacy: mechanisms, accounting, a hospital's ledger and budget. It knows nothing of secure aggregation."""
