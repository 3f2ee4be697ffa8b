"""x402 on the wire, versions 1 and 2: messages, headers, networks, addresses. Pure functions over frozen dataclasses.

Also decodes what strangers send, within bounds (`strict_json`, `codings`), recognises credentials (`credentials`), and
has the hash and signatures of EVM chains (`evm`). Imports nothing of ours but `errors` and `quick_init`.
"""
