"""What can be proved about a code that was found."""
