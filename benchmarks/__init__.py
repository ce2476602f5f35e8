"""Measurements that anyone can repeat: ``make bench-engine bench-peers profile``."""
