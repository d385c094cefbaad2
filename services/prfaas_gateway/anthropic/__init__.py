"""Anthropic's Messages API: its words for what a chat asks and answers."""
