"""The distrust objective and the LoRA training loop on MLX."""
