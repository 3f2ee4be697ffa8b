"""The program, its processes and this machine."""
