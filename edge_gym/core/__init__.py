"""Problems, their state and spaces, and the Gymnasium environments."""
