"""The scheduler: decides where each prompt is prefilled and decoded, and says why."""
