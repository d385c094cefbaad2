"""Prompts and KV keys sealed from decode workers to prefill workers, past brokers, links and schedulers."""
