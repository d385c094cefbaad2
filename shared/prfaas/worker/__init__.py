"""Parts that prefill and decode workers share."""
