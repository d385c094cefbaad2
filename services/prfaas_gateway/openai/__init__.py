"""OpenAI's API: types of requests and answers, validation, shapes, errors."""
