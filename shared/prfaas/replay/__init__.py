"""Replay of traces against an OpenAI-compatible server, and reports of what happened (docs/replay.md)."""
