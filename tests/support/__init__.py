"""What tests share: the real proxy in a process of its own, and upstreams that do exactly what a test says."""
