"""WHERE: schemas, layout, atomic files, shard plans, manifests and checkpoints; knows nothing of Prefect."""
