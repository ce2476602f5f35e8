"""What every API shares: one request, one ordered stream of events. Knows no HTTP."""
