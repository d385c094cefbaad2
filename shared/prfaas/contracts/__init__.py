"""Every message that crosses a process boundary, one module per receiving side, and the subjects that carry them."""
