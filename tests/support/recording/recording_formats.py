"""The rooms of the recorder that import mitmproxy's own libraries, which warn in their newest versions."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mitmproxy_x402.recording.mitm import FlowFile, without_body
    from mitmproxy_x402.recording.plan import Filter, make_plan
    from mitmproxy_x402.recording.redact import Redactor

__all__ = ["Filter", "FlowFile", "Redactor", "make_plan", "without_body"]
