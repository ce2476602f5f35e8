"""``make chaos``: what becomes of the requests under way when a part of the server breaks."""
