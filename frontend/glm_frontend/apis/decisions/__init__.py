"""OpenAI's Decisions API: typed questions, answered by the probability of each option."""
