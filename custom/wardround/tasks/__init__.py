"""Floor 2: brain-tumour segmentation on plain arrays: regions, patches, augmentation, loss, inference, metrics."""
