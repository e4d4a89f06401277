"""A data folder, as a client finds it."""

from pathlib import Path

import pytest

from meterproof.deployment import DataFolder, NoDeployment


def test_the_command_that_is_proposed_can_be_copied_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    with pytest.raises(NoDeployment, match=f"`meterproof up --data '{folder}'`"):
        DataFolder(folder).deployment()
