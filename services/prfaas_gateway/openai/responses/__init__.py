"""OpenAI's Responses API, without what it keeps between requests."""
