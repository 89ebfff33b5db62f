"""What is learnt, on plain arrays: regions, classes, patches, augmentation, loss, inference, metrics."""
