"""Regular expressions for how chains write things: addresses, networks, transactions. They check the form alone."""

from __future__ import annotations

EVM_ADDRESS = "0x[0-9a-fA-F]{40}"
"""Says nothing of the checksum, which the case of the digits is; `evm.address` checks it."""
EVM_NETWORK = r"eip155:([1-9][0-9]{0,31})"
"""A CAIP-2 identifier; the group is the chain id."""

BASE58_DIGIT = "[1-9A-HJ-NP-Za-km-z]"
SVM_ADDRESS = f"{BASE58_DIGIT}{{32,44}}"
"""32 bytes in base58."""
SVM_SIGNATURE = f"{BASE58_DIGIT}{{64,88}}"
"""64 bytes in base58; the first one identifies a transaction."""
SVM_NETWORK = f"solana:({BASE58_DIGIT}{{32}})"
"""A CAIP-2 identifier; the group is the beginning of the genesis block's hash."""
