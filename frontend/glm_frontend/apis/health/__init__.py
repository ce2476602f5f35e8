"""Whether requests can be answered."""
