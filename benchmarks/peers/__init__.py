"""The servers that a company would pick instead, side by side with ours on this machine."""
