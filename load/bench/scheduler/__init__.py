"""How fast placements are decided."""
