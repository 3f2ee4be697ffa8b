"""One run's gateway, delay, authority, throw-away keys and folders."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import secrets
import urllib.request
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from solders.keypair import Keypair

from .processes import Server

DELAY = 0.015
"""Seconds each way."""
Door = Literal["base", "solana", "solana-rpc", "metered", "free"]


class Place:
    """Starts the gateway and the delay on entering, ends them on leaving."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority, pem = make_authority(folder)
        self.evm_key = "0x" + secrets.token_hex(32)
        self.svm_key = str(Keypair())
        self.keeps_homes = False
        """Whether a second process of one name gets the first one's home: for what a second start finds there."""
        self._homes = 0
        self._confdir = folder / "confdir"
        self._confdir.mkdir()
        self.gateway = Server("sides.gateway", str(pem))
        far = {name: port for name, port in self.gateway.ports.items() if name.endswith("-tls")}
        self.delay = Server("sides.delay", str(DELAY), json.dumps(far))

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.delay.stop()
        self.gateway.stop()

    def port(self, door: Door, *, far: bool) -> int:
        """Of a door of the gateway: plain HTTP, or TLS behind the delay."""
        return self.delay.ports[f"{door}-tls"] if far else self.gateway.ports[door]

    def url(self, door: Door, *, far: bool) -> str:
        return f"{'https' if far else 'http'}://127.0.0.1:{self.port(door, far=far)}"

    @property
    def trust(self) -> list[str]:
        """mitmproxy's arguments for the gateway's certificate."""
        return ["--set", f"ssl_verify_upstream_trusted_ca={self.authority}"]

    @property
    def rpc(self) -> list[str]:
        """The addon's arguments that keep it from asking a Solana RPC on the internet."""
        return ["--set", f"x402_solana_rpc={self.url('free', far=False)}/bench/rpc"]

    def new_home(self, name: str) -> Path:
        """A home folder of its own for each process, so that no two share a ledger; see `keeps_homes`."""
        self._homes += 0 if self.keeps_homes else 1
        home = self.folder / (name if self.keeps_homes else f"{name}-{self._homes}")
        if not home.exists():
            home.mkdir()
            # mitmproxy's own authority, which takes a second to make, is made once.
            (home / ".mitmproxy").symlink_to(self._confdir)
        return home

    def environ(self, home: Path) -> dict[str, str]:
        """Nothing of the user's settings, and the keys of this run."""
        return {
            "HOME": str(home),
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",  # what is printed is there when it is looked for
            "BLOCKRUN_WALLET_KEY": self.evm_key,
            "SOLANA_WALLET_KEY": self.svm_key,
        }

    def counts(self) -> dict[str, int]:
        """What the gateway was asked since the last call."""
        with urllib.request.urlopen(f"{self.url('free', far=False)}/bench/counts", timeout=10) as answer:
            told: dict[str, Any] = json.load(answer)
        return {name: int(number) for name, number in told.items()}


def make_authority(folder: Path) -> tuple[Path, Path]:
    """An authority of this run's own: its certificate, and a PEM with key and certificate for 127.0.0.1."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench authority")])
    now = datetime.datetime.now(datetime.timezone.utc)

    def certificate(name: str, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
            .sign(authority_key, hashes.SHA256())
        )

    own = certificate("bench authority", authority_key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    server = certificate("127.0.0.1", key.public_key(), address)
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(own.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + server.public_bytes(pem)
    )
    return folder / "authority.pem", folder / "server.pem"
