"""One client without NVFlare: it trains, evaluates, selects a model and keeps its state."""
