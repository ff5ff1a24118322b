"""New weights and the state of early stopping, from the learners to every runner."""
