"""What computes: the Engine protocol and its implementations."""
