"""A model of the Hugging Face Hub in, a local folder out, once; everything after it works offline.

Out: the folder's manifest.json, written last: the name, the revision and a hash of every file beside it.
Weights are taken as safetensors only: the older pickle files can run code when they are loaded.
"""

import json
import os
import shutil
from hashlib import file_digest
from pathlib import Path
from typing import Any

from snaketune.job import StageError, run

WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "LICENSE*"]


def fetch_base(manifest: str | Path, settings: dict[str, Any]) -> str:
    """Fetch `settings["base"]` at `settings["revision"]` into the manifest's folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    folder = Path(manifest).parent
    shutil.rmtree(folder, ignore_errors=True)
    wanted = WANTED + (["*.py"] if settings["trust_remote_code"] else [])
    name, revision = settings["base"], settings["revision"]
    try:
        snapshot_download(name, revision=revision, local_dir=folder, allow_patterns=wanted)
    except (HfHubHTTPError, OSError) as error:
        raise StageError(
            f"{name} at {revision} cannot be fetched ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "Check the name, the revision, the network, and HF_TOKEN for a gated model"
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not any(path.suffix == ".safetensors" for path in files):
        raise StageError(f"{name} at {revision} has no safetensors; pick a revision that has, or convert it first")
    hashes = {}
    for path in files:
        with path.open("rb") as file:
            hashes[str(path.relative_to(folder))] = file_digest(file, "sha256").hexdigest()
    content = {"base": name, "revision": revision, "files": hashes}
    part = Path(f"{manifest}.part")
    part.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, manifest)
    size = sum(path.stat().st_size for path in files)
    return f"{name} at {revision[:12]}: {len(files)} files, {size / 1e6:,.0f} MB"


if __name__ == "__main__":
    run(lambda job: fetch_base(job.output.manifest, job.params.settings), snakemake)
