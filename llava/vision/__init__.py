"""Pictures before a model: opened and fetched, made RGB, cut into crops, turned into pixels."""
