"""What scripts/images refuses; that good images pass, it shows itself."""

import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lib"))

from images import Failed, bases, build, check, container, output, run

LABELS = ("description", "revision", "source", "licenses")


class Tools(unittest.TestCase):
    def test_a_user_who_is_not_root_is_told(self):
        with mock.patch("os.geteuid", return_value=1000), self.assertRaisesRegex(Failed, "run it with sudo"):
            build.check_tools()

    def test_each_missing_tool_is_named_with_its_package(self):
        packages = {"buildah": "buildah", "crun": "crun", "unshare": "util-linux", "curl": "curl"}
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


class Description(InAFolder):
    def setUp(self):
        super().setUp()
        self.image = self.folder / "kimi-k2-gateway"
        (self.image / "rootfs" / "var" / "lib" / "llama-gateway").mkdir(parents=True)
        (self.image / "rootfs" / "var" / "lib" / "llama-gateway").chmod(0o770)
        version = (ROOT / "Cargo.toml").read_text().split('\nversion = "')[1].split('"')[0]
        self.labels = {f"org.opencontainers.image.{name}": "something" for name in LABELS}
        self.labels["org.opencontainers.image.version"] = version
        self.labels["org.opencontainers.image.title"] = "kimi-k2-gateway"
        self.describe()

    def describe(self, user="65532:0", **labels):
        changed = {f"org.opencontainers.image.{name}": value for name, value in labels.items()}
        config = {"User": user, "Labels": {**self.labels, **changed}}
        (self.image / "image.json").write_text(json.dumps(config))

    def refused(self, text):
        with self.assertRaisesRegex(Failed, text):
            check.description(self.image)

    def test_a_good_one_passes(self):
        check.description(self.image)

    def test_a_user_by_name_or_root_is_refused(self):
        for user in ("", "root", "llama", "65532", "65532:65532"):
            with self.subTest(user):
                self.describe(user=user)
                self.refused("has the user .*, not '65532:0'")

    def test_a_version_that_is_not_the_projects_is_refused(self):
        self.describe(version="0.0.9")
        self.refused("has the version of Cargo.toml '0.0.9', not ")

    def test_a_label_without_text_is_refused(self):
        for label in LABELS:
            with self.subTest(label):
                self.describe(**{label: ""})
                self.refused(f"has the label {label} False, not True")

    def test_a_data_directory_that_the_group_cannot_write_is_refused(self):
        (self.image / "rootfs" / "var" / "lib" / "llama-gateway").chmod(0o755)
        self.refused("has the mode '0o755', not '0o770'")


class Specification(unittest.TestCase):
    def test_a_container_is_confined(self):
        config = {"Env": ["A=1", "B=2"], "Entrypoint": ["/e"], "Cmd": None, "WorkingDir": ""}
        made = container.specification(Path("/image"), config, [("/out", "/in", "ro")], {"B": "3"}, None)
        process = made["process"]
        self.assertEqual(process["user"], {"uid": 1006700000, "gid": 0})
        self.assertEqual(set(map(tuple, process["capabilities"].values())), {()})
        self.assertTrue(process["noNewPrivileges"] and made["root"]["readonly"])
        self.assertEqual((process["args"], process["cwd"]), (["/e"], "/"))
        self.assertEqual(process["env"], ["A=1", "B=3"])
        self.assertEqual(made["mounts"][-1]["options"], ["bind", "ro"])


if __name__ == "__main__":
    unittest.main()
