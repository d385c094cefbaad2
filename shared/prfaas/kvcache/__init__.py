"""KV caches, pure: layout, names of prefixes, and the cache of prompt prefixes."""
