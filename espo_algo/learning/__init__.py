"""The update: PPO on whole responses, the language model that it trains, and supervised fine-tuning before it."""
