"""Transfer of one KV cache: frames, codecs, both ends of a transfer, the keeper of the bucket."""
