"""What is learnt, on plain arrays: regions, classes, patches, loss, metrics."""
