"""A trained adapter made into a model that other programs open."""
