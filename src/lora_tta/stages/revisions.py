"""Results of another Git revision, as DVC has kept them."""

from pathlib import Path

from lora_tta.errors import UserError
from lora_tta.records.arm_settings import SETTINGS
from lora_tta.records.results import CLIPS_TABLE
from lora_tta.stages.paths import ADAPT


def fetch_tables(name: str, folder: Path) -> bool:
    """Copy the tables of results of a revision from DVC's cache or remote.

    Args:
        name: ``revision`` or ``revision:folder``, as ``HEAD~1:outputs/baseline``; without a folder, that of
            the stage ``adapt``.
        folder: where to.

    Returns:
        False if there is no such revision, or no results are there.

    Raises:
        UserError: DVC has not kept the files of this revision.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.brancher import switch
    from dvc.scm import SCMError
    from dvc_data.index import DataIndexDirError

    revision, _, place = name.partition(":")
    try:
        # Not DVC's file system of a revision, whose root is Git's: this may be a subfolder of that.
        with Repo() as repo, switch(repo, revision):
            files = repo.dvcfs
            for table in (str(path) for path in files.ls(f"/{place or ADAPT.as_posix()}", detail=False)):
                if table.endswith((".csv", f"/{SETTINGS}")):
                    files.get_file(table, str(folder / Path(table).name))
    except DataIndexDirError:
        raise UserError(
            f"{name}: its files are neither in DVC's cache nor in the remote, as after dvc gc; check the "
            "revision out and run dvc repro"
        ) from None
    except (DvcException, SCMError, OSError):
        return False
    return (folder / CLIPS_TABLE).exists()
