"""The manifest: hashes of what went in."""

from __future__ import annotations

import json
from pathlib import Path

from manifest import manifest
from snaketune.versions import PACKAGES


def test_the_manifest_hashes_inputs_code_and_folders(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.txt").write_text("abc")
    (tmp_path / "code.py").write_text("")
    out = tmp_path / "manifest.json"
    manifest([str(tmp_path / "raw")], [str(tmp_path / "code.py")], str(out), {"run": "demo"})
    found = json.loads(out.read_text())
    # Of FIPS 180-2, appendix B.1, and of the empty text.
    assert list(found["inputs"].values()) == ["ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
    assert list(found["code"].values()) == ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
    assert set(found["packages"]) == set(PACKAGES)
    assert found["config"] == {"run": "demo"}
    assert {"cpu", "cores", "memory_gib", "gpus"} <= set(found["hardware"])
    assert "commit" in found
