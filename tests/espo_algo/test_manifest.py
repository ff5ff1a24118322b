"""Checkpoints whose bits have flipped are found, whichever file they are in."""

import re
import shutil

import pytest
from coin_fixtures import assert_same, coin_config, coin_model, weights  # noqa: F401 (fixtures)

from espo_algo.manifest import MANIFEST, BrokenCheckpointError, verify_checkpoint

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def checkpoint(coin_config, tmp_path_factory):
    algo = coin_config().build_algo()
    algo.train()
    yield algo.save_to_path(str(tmp_path_factory.mktemp("checkpoint") / "whole")), algo
    algo.stop()


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << (position % 8)
    file.write_bytes(content)


def test_a_flipped_bit_in_any_file_is_found_and_named(checkpoint, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint[0], folder)
    verify_checkpoint(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {"algorithm_state.pkl", "module_state.pkl", "state.pkl", MANIFEST} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        places = [0, len(content) // 2, len(content) - 1]
        if file.name == MANIFEST:
            places.append(content.index(b'": "') + 20)  # inside of a checksum
        for place in places:
            flip(file, place)
            with pytest.raises(BrokenCheckpointError, match=f"{folder}: expected .*{re.escape(file.name)}"):
                verify_checkpoint(folder)
            file.write_bytes(content)
        file.unlink()
        with pytest.raises(BrokenCheckpointError, match=file.name):
            verify_checkpoint(folder)
        file.write_bytes(content)
    verify_checkpoint(folder)


def test_a_broken_checkpoint_is_not_restored(checkpoint, tmp_path):
    saved, algo = checkpoint
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    module_state = folder / "learner_group/learner/rl_module/default_policy/module_state.pkl"
    flip(module_state, module_state.stat().st_size // 2)
    algo.train()
    before = weights(algo)
    with pytest.raises(BrokenCheckpointError, match=r"module_state\.pkl with the SHA-256"):
        algo.restore_from_path(str(folder))
    assert_same(weights(algo), before)
    algo.restore_from_path(saved)
    assert algo.training_iteration == 1
