"""Where each prompt is prefilled and decoded, and why."""
