"""Between a decoded image and a tensor, and back to a picture."""
