"""``make fuzz``: random input to every entry point of a server, which must answer or reject it."""
