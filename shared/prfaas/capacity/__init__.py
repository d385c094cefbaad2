"""The capacity model: profiles, length distributions, the paper's Equations 1 to 8, and what they say about a deployment."""
