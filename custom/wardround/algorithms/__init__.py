"""Federated algorithms as frozen values: one local function each, what is shared, and server optimizers."""
