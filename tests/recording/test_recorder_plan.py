"""What the options x402_dump... may say, and what becomes of it before anything is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import tflow

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.settings.settings import Settings, read_settings
from support.recording.recording_formats import Filter, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what mitmproxy's filters call


def settings(here: Path, file: str = "", **options: str) -> Settings:
    (here / "x402.toml").write_text(file)
    return read_settings({f"x402_{key}": value for key, value in options.items()}, {}, cwd=here, home=here)


def test_off_unless_asked_for(tmp_path: Path) -> None:
    found = settings(tmp_path, dump_filter="~all", dump_format="har")
    assert (found.dump, make_plan(found)) == (None, None)
    assert list(tmp_path.iterdir()) == [tmp_path / "x402.toml"]


def test_a_folder_is_made_for_the_user_alone(tmp_path: Path) -> None:
    plan = make_plan(settings(tmp_path, dump="rec"))
    assert plan is not None
    assert plan.folder == tmp_path / "rec"
    assert plan.folder.stat().st_mode & 0o777 == 0o700
    assert list(plan.folder.iterdir()) == []
    assert (plan.outputs.native, plan.outputs.har, plan.outputs.mitm, plan.needs_state) == (True, None, None, False)


def test_in_the_file(tmp_path: Path) -> None:
    found = settings(tmp_path, 'dump = "~/rec"\ndump_filter = "~m POST"\ndump_format = ["har", "mitm"]')
    assert (found.dump, found.dump_filter, found.dump_formats) == (tmp_path / "rec", "~m POST", ("har", "mitm"))
    plan = make_plan(found)
    assert plan is not None
    assert not plan.outputs.native
    assert plan.outputs.har is not None
    assert plan.outputs.mitm is not None
    assert plan.needs_state
    assert plan.outputs.mitm.path.parent == tmp_path / "rec"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dump_format": "pcap"}, "x402_dump_format = 'pcap': expected native, har, mitm, or several"),
        ({"dump_format": "har, har"}, "x402_dump_format: is there twice"),
        ({"dump_filter": "~nonsense"}, "x402_dump_filter = '~nonsense': expected a filter expression"),
        ({"dump_filter": "~u ["}, "x402_dump_filter = '~u [': expected a filter expression"),
        ({"dump_filter": "(" * 5000}, "expected a filter expression"),
        ({"dump": "a\nb"}, "x402_dump: expected the path"),
    ],
)
def test_wrong_settings(tmp_path: Path, options: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, **options)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere/rec", "No such file or directory"),
        ("x402.toml", "File exists"),
        ("x402.toml/rec", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("/dev/null/x", "Not a directory"),
        ("/proc", "No such file or directory"),
    ],
)
def test_unusable_folders(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_plan(settings(tmp_path, dump=name))
    assert str(caught.value).startswith("x402_dump = ")
    assert f": cannot record there: {expected}; expected a folder" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "early"),
    [
        ("~u /v1 & ~m POST", True),
        ("/v1/messages", True),
        ("! (~c 402 | ~hs x-a) & ~tq json", True),
        ("~s", True),
        ("~all", True),
        ("~b needle", False),
        ("! (~c 402 | ~hs x-a) & ~bq tools", False),
        ("~u /v1 & ! ~bs needle", False),
        ("~u /v1 | (~m GET & ~comment USDC)", False),
        ('~meta "x402.state: settled"', False),
        ("~marked", False),
        ("~marker x", False),
        ("~e", False),
        ("~websocket", False),
    ],
)
def test_when_a_filter_can_tell(text: str, early: bool) -> None:
    assert Filter(text).early is early


def test_what_a_filter_cannot_tell_is_recorded() -> None:
    flow: Any = tflow.tflow()
    flow.metadata = None
    assert Filter("~meta x").matches(flow)
