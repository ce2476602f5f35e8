"""Pictures and videos by URL."""
