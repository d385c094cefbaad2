"""Histogram buckets that several services share."""

# Buckets in seconds, from the GenAI conventions (semantic-conventions-genai, gen_ai.server.*), with room at the top for a
# prefill of 100,000 tokens on the other side of a WAN.
TTFT_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TPOT_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS = tuple(0.01 * 2**i for i in range(15))
SIZE_BUCKETS_BYTES = tuple(float(4**i) for i in range(8, 18))
"""64 KiB to 16 GiB."""
RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 1.0)
