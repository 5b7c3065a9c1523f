"""A registry: the distribution protocol's other side, over blobs that its caller provides."""
