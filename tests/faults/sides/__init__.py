"""Whom the proxy meets in the fault matrix: a gateway, the chains it is paid on, their RPC, and doors."""
