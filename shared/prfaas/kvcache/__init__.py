"""What a KV cache is made of and how it travels: layout, frames, manifest, and both ends' state machines."""
