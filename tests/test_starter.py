"""A stage ends with the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

STAGE = """
import sys, time
from headimpact.lifecycle import starter
starter._SECONDS_BETWEEN_LOOKS = 0.05
starter.end_with_starter()
print("begun", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    open(sys.argv[1], "w").write("interrupted")
"""
# As DVC does: through a shell, which is not replaced by its command.
STARTER = "import subprocess, sys; subprocess.run(['sh', '-c', f'{sys.executable} stage.py ended; true'])"


@pytest.fixture
def begin(tmp_path: Path):
    (tmp_path / "stage.py").write_text(STAGE, encoding="utf-8")

    def started(**environment: str) -> tuple[subprocess.Popen[str], psutil.Process]:
        others = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "MLFLOW_RUN_ID")}
        starter = subprocess.Popen(
            [sys.executable, "-c", STARTER], cwd=tmp_path, env=others | environment, stdout=subprocess.PIPE, text=True
        )
        assert starter.stdout is not None
        assert starter.stdout.readline() == "begun\n"
        stage = next(
            child for child in psutil.Process(starter.pid).children(recursive=True) if "ended" in child.cmdline()
        )
        return starter, stage

    return started


def test_a_stage_is_interrupted_when_dvc_is_killed(begin, tmp_path: Path) -> None:
    starter, stage = begin(DVC_STAGE="finetune@a-top-4")
    starter.send_signal(signal.SIGKILL)
    stage.wait(timeout=20)
    starter.communicate()
    assert (tmp_path / "ended").read_text(encoding="utf-8") == "interrupted"


def test_a_command_of_a_person_outlives_what_started_it(begin, tmp_path: Path) -> None:
    starter, stage = begin()
    starter.send_signal(signal.SIGKILL)
    time.sleep(0.5)
    assert stage.is_running()
    stage.kill()
    starter.communicate()
    assert not (tmp_path / "ended").exists()
