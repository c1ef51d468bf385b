"""DVC reads the model's files, once, and remembers their hashes for itself and for the stages."""

import os
from pathlib import Path

from lora_tta.cache.model_identity import model_identity
from lora_tta.experiment.lazy_model import IDENTITIES_NAME


def remember_model(folder: Path, cache_folder: Path) -> None:
    """Remember the identity of a model that is seen for the first time.

    Args:
        folder: of the model.
        cache_folder: where identities are remembered.

    Raises:
        UserError: the folder is missing or empty.
    """
    model_identity(folder, cache_folder / IDENTITIES_NAME, hash_by_dvc)


def hash_by_dvc(folder: Path) -> str | None:
    """DVC's hash of a folder; None outside of a DVC repository.

    ``dvc repro`` hashes the folder again when the stage is done. It finds the hash of every file by its path,
    size and time stamp in its own memory
    (https://dvc.org/doc/user-guide/project-structure/internal-files).
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.fs import localfs
    from dvc.progress import Tqdm
    from dvc.repo import Repo
    from dvc_data.hashfile.build import build

    path = os.path.abspath(folder)
    try:
        with Repo() as repo, Tqdm(desc=f"hashing {folder}", unit="file") as bar:
            cache, callback = repo.cache.local, bar.as_callback()
            _, _, tree = build(cache, path, localfs, "md5", dry_run=True, callback=callback)
            return tree.hash_info.value
    except NotDvcRepoError:
        return None
