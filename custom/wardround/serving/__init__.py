"""Floor 5: one model as a small HTTP service, without NVFlare."""
