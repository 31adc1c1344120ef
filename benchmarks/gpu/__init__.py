"""What to run on a machine with a GPU, and what can be said of its kernels without one."""
