"""Published methods of other authors: gradient descent and Adam."""
