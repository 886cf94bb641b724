"""ToyScenes: generated street-like scenes, deterministic by index."""
