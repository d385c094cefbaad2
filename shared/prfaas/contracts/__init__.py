"""Everything that crosses a process boundary.

`to_X` holds the messages that X receives, replies to X's own questions included. `terms` holds the words that several messages
use, `codes` the failure codes, `subjects` the NATS subjects and bucket names, `kv` what both ends of a transfer agree on, and
`wire` the encoding.
"""
