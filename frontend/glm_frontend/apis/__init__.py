"""The APIs, a folder each: schema, decode, encode, routes."""
