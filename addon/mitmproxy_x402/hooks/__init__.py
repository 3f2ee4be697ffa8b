"""Implements the addon's hooks: who may use the port, payments of a flow, our own answers, start and stop.

Uses everything below it; `addon` connects it to mitmproxy.
"""
