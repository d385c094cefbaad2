"""How one KV cache moves: frames, codecs, both ends of a transfer, the keeper of the bucket."""
