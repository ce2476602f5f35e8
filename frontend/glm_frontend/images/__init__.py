"""From what a request names as its pictures to their bytes."""
