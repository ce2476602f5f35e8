"""GLM's markup: separates thought, text and tool calls by token id. No Triton, no torch.

GLM writes ``<think>thought</think>``, then text, then ``<tool_call>NAME``, a line break, for each
argument ``<arg_key>KEY</arg_key>`` and ``<arg_value>VALUE</arg_value>``, then ``</tool_call>``.
Every tag is one token. A text that merely reads like a tag is text.

Source: the chat template of GLM-4.6V, and vLLM's ``glm45`` reasoning and tool parsers.
"""
