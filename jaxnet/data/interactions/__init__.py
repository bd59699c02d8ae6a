"""User-item interactions: files, splits, MovieLens, and synthetic ones."""
