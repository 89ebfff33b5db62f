"""Floor 4: what one hospital does with its own patients, without NVFlare: open the data, train a round, judge the models."""
