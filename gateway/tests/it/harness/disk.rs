//! A small disk of its own for a test: what fills it disturbs nobody else.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::spawn;

/// Names the directory of the disk, for the run of a test that has one.
const VARIABLE: &str = "TEST_ON_SMALL_DISK";

/// A file system of a few megabytes, which holds all temporary files of the test.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Runs the test `name` once more, in a mount namespace of its own in which there is such a disk: `test` is called
    /// there. A machine that allows no namespaces makes the test fail.
    pub(crate) fn with(name: &str, test: impl FnOnce(&Self)) {
        if let Some(directory) = std::env::var_os(VARIABLE) {
            return test(&Self(directory.into()));
        }
        let directory = tempfile::tempdir().unwrap();
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let script = "mount -t tmpfs -o size=12m tmpfs \"$TMPDIR\" && exec setpriv --pdeathsig KILL -- \"$@\"";
        let mut command = Command::new("unshare");
        // Who is not root is made to look like it there.
        command.args([if is_root { "--mount" } else { "-rm" }, "sh", "-c", script, "sh"]);
        command.arg(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]);
        command.env(VARIABLE, directory.path()).env("TMPDIR", directory.path());
        command.stdout(Stdio::piped());
        let output = spawn(command).wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        // A name that is wrong finds no test, which is a success as well.
        assert!(output.status.success() && printed.contains("1 passed"), "on a small disk: {printed}");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    /// Frees what [`fill`](Self::fill) took.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    /// Lets nobody write any more.
    pub(crate) fn make_read_only(&self) {
        let mount = |path: &Path| Command::new("mount").args(["-o", "remount,ro"]).arg(path).status().unwrap();
        assert!(mount(&self.0).success());
    }
}
