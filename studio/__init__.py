"""A local page to look at a store: documents and their scores, mixtures, runs, and answers of a trained model."""
