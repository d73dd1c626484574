"""Problems, data and simulators of others, whose answers are known."""
