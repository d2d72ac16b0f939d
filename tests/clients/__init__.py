"""Programs of others that open what this project writes."""
