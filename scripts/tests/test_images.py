"""What scripts/images refuses. What it builds is looked at and run by test_pods.py."""

import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from images import Failed, bases, build, output, run


class Tools(unittest.TestCase):
    def test_a_user_who_is_not_root_is_told(self):
        with mock.patch("os.geteuid", return_value=1000), self.assertRaisesRegex(Failed, "run it with sudo"):
            build.check_tools()

    def test_each_missing_tool_is_named_with_its_package(self):
        packages = {"buildah": "buildah", "curl": "curl"}
        for tool, package in packages.items():
            present = mock.patch("shutil.which", side_effect=lambda name, gone=tool: None if name == gone else name)
            with self.subTest(tool), mock.patch("os.geteuid", return_value=0), present:
                with self.assertRaisesRegex(Failed, f"{tool} is missing: apt-get install {package}"):
                    build.check_tools()

    def test_a_command_that_fails_is_shown(self):
        with self.assertRaisesRegex(Failed, "the command was sh -c exit 3"):
            run("sh", "-c", "exit 3")
        with self.assertRaisesRegex(Failed, "the command was sh -c exit 3"):
            output("sh", "-c", "exit 3")


class InAFolder(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)


class Bases(InAFolder):
    def test_a_program_that_the_image_needs_and_this_machine_lacks_is_named(self):
        with self.assertRaisesRegex(Failed, "no-such-program is missing in /usr/bin"):
            bases.program(self.folder, "no-such-program")

    def test_a_program_brings_its_libraries(self):
        bases.skeleton(self.folder)
        bases.program(self.folder, "bash")
        self.assertTrue((self.folder / "usr" / "bin" / "bash").is_file())
        self.assertTrue(list(self.folder.glob("usr/lib/**/libc.so.6")))
        self.assertEqual((self.folder / "tmp").stat().st_mode & 0o7777, 0o1777)


if __name__ == "__main__":
    unittest.main()
