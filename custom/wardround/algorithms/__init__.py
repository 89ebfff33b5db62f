"""Federated algorithms as frozen values: local training, sharing, server optimizers."""
