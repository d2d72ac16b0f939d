"""How each archive speaks."""
