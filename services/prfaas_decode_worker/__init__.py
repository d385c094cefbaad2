"""Decode worker: owns a request from placement to last token, reads its KV, batches its decoding, streams its text."""
