"""OpenAI's chat completions over HTTP, for machines without vLLM.

`schema` has what a client may send, `messages` how that becomes a prompt, `routes` the addresses.
"""
