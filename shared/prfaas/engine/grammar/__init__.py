"""Grammars that answers must follow, by llguidance. It needs neither torch nor a model's weights."""
