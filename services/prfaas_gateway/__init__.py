"""The HTTP service of a site. It speaks OpenAI's API."""
