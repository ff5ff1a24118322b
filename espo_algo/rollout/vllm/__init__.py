"""The vLLM engine. No other folder imports vLLM's internals; vLLM itself is imported when an engine starts."""
