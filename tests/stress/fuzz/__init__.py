"""``make fuzz``: random input to every door of a server; each ends in an answer or an error."""
