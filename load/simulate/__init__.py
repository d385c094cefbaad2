"""A discrete-event simulation around the scheduler's own core: stations paced by profiles, links with a rate that may change."""
