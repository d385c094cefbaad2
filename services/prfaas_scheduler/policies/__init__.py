"""Policies: where to prefill one prompt, and why there. `registry` names them."""
