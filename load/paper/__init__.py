"""The paper's case, end to end on emulated engines."""
