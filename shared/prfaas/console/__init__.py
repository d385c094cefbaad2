"""State of a running site as it is shown to people: its schema, its changes over time, and the terminal's view of it."""
