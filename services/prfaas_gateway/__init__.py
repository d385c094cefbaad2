"""The HTTP edge: OpenAI's API in, server-sent events out."""
