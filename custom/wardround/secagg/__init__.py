"""Secure aggregation: quantise, mask, encrypt, add, and both ends of the protocol. It knows nothing of noise."""
