"""Prometheus metrics by service: vLLM's names where they exist, `prfaas_` ones for the rest.

Every series has one owner, so that sums over processes count nothing twice: the gateway what a client sees, the decode worker
batches and received KV, the prefill worker jobs and sent KV, the scheduler placements, the probe links. Objects with a model's
name hold bound children: `observe` and `inc` on them cost well under a microsecond and may be called per token.
"""
