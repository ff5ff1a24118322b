"""Small tasks that are learnt in minutes, and comparisons of stop rules on them."""
