"""Training of the world's checkpoint with the official PyTorch modules (reference environment only)."""
