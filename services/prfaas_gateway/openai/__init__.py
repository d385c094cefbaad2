"""OpenAI's words: request and response types, their validation, shapes and errors."""
