"""Takes prefill jobs from its site's queue, runs the engine, ships each layer's KV as it is computed."""
