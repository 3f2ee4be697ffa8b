"""A gateway that charges play money, for the demo, the tests and the benchmark.

    sandbox = Sandbox(SandboxConfig(networks=("base-sepolia", "solana-devnet")))
    with sandbox.run_in_thread():
        print(sandbox.url)

Uses `protocol` and, for its output, `machine`; shares no other code with the payer, which it tests.
"""

from .config import SandboxConfig
from .faults import FAULTS
from .gateway import Sandbox
from .payments.pricing import Rates
from .records import ReceivedPayment, ReceivedRequest, Sent

__all__ = ["FAULTS", "Rates", "ReceivedPayment", "ReceivedRequest", "Sandbox", "SandboxConfig", "Sent"]
