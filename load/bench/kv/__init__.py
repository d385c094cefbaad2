"""`make bench-kv`: the KV lane beside plain TCP and nats-py."""
