"""Every derivative, once: one class an operation, forward and backward side by side."""
