import os
import subprocess
import sys


def test_a_reader_that_has_enough_is_no_error(workspace):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lora_tta.cli.main", "cache"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
