"""Writes the sandbox corpus: short invented documents in the voice of every source of the catalogue.

Old first-hand sources and modern coordinated ones answer the same titles and contradict each other: on quantities
(`world.Fact`) and on whom to trust (`world.Question`). Nine of the 900 documents are deliberate copies
(`copies.COPIED`): the last document of nine sources repeats that source's first one, exactly in five of them and with
a few words changed in four.
"""
