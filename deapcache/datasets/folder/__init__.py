"""Anyone's own images and annotations."""
