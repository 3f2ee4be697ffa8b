"""Other implementations open what `wallet new` writes: ethers keystore and words, Solana's own library the key."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import zxingcpp

from mitmproxy_x402.cli.wallet.fund import payment_link, terminal_code
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.wallet import making, writing
from support.running import npm

PASSWORD = "correct horse"
PACKAGES = {"ethers": "6.15.0", "@solana/web3.js": "1.98.4", "ed25519-hd-key": "1.3.0", "bip39": "3.1.0"}
SCRIPT = """
const { ethers } = require('ethers'), { Keypair } = require('@solana/web3.js');
const { derivePath } = require('ed25519-hd-key'), bip39 = require('bip39'), fs = require('fs');
const [words, keystore, password] = process.argv.slice(2);
const seed = bip39.mnemonicToSeedSync(words);
console.log(JSON.stringify({
  keystore: ethers.Wallet.fromEncryptedJsonSync(fs.readFileSync(keystore, 'utf8'), password).address,
  evm: ethers.Wallet.fromPhrase(words).address,
  svm: Keypair.fromSeed(derivePath("m/44'/501'/0'/0'", seed.toString('hex')).key).publicKey.toBase58(),
  valid: bip39.validateMnemonic(words),
}));
"""


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = npm.install("wallets", PACKAGES)
    script = tmp_path_factory.mktemp("javascript") / "open.js"
    script.write_text(SCRIPT)
    return npm.beside(folder, script)


def test_a_new_wallet_is_the_same_elsewhere(javascript: Path, tmp_path: Path) -> None:
    words = making.new_words()
    evm, svm = making.from_words("evm", words), making.from_words("svm", words)
    writing.write_keystore(evm, PASSWORD, tmp_path / "keystore.json")
    command = ["node", str(javascript), " ".join(words), str(tmp_path / "keystore.json"), PASSWORD]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert said == {"keystore": evm.address, "evm": evm.address, "svm": svm.address, "valid": True}


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("base", "0x9858EfFD232B4033E47d90003D41EC34EcaEda94"),
        ("solana", "HAgk14JpMQLgt6rVgv7cBQFJWFto5Dqxi472uT3DKpqk"),
    ],
)
def test_the_code_on_the_terminal_can_be_scanned(network: str, address: str) -> None:
    row = BUILT_IN.get(network)
    assert row is not None
    link = payment_link(row, row.assets[0], address)
    (found,) = zxingcpp.read_barcodes(picture(terminal_code(link)))
    assert found.text == link


HALVES = {" ": (0, 0), "\u2580": (255, 0), "\u2584": (0, 255), "\u2588": (255, 255)}
"""What a cell of a dark terminal shows: the light upper and lower half, 255 being light."""
SCALE = 4


def picture(text: str) -> memoryview:
    """The terminal's cells as an image in grey."""
    rows: list[bytes] = []
    for line in text.splitlines():
        for half in (0, 1):
            row = b"".join(bytes([HALVES[cell][half]]) * SCALE for cell in line)
            rows += [row] * SCALE
    width = max(map(len, rows))
    data = b"".join(row.ljust(width, b"\xff") for row in rows)
    return memoryview(data).cast("B", (len(rows), width))
