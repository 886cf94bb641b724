"""From a network and images to scores."""
