"""Rollouts: engines that write responses, and the runner that drives environment and engine."""
