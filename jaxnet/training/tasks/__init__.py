"""Tasks: what can be learnt, each as pure functions over one state."""
