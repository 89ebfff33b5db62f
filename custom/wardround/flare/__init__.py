"""Floor 5: the doors to NVFlare. What leaves a hospital: wire.py says which payloads exist, release.py is the one exit."""
