"""One model as a small HTTP service, without NVFlare."""
