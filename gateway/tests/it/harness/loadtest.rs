//! The load test's binary, which is built beside the gateway's: run to its end, or as a simulated llama-server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::client::get;
use super::eventually_true;
use super::process::{free_port, mortal, spawn};

/// Where the binary is. Cargo builds it with the whole workspace, but not for the tests of this crate alone.
pub(crate) fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_llama-gateway")).with_file_name("loadtest");
    assert!(path.is_file(), "{} is missing; hint: cargo build -p loadtest", path.display());
    path
}

/// Runs it with these arguments and variables to its end.
pub(crate) fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(binary()).args(args).envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

/// A running simulator; killed on drop.
pub(crate) struct Simulator {
    child: Child,
    port: u16,
}

impl Simulator {
    /// Starts one on a free port with further arguments and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        let simulator = Self::launch(args);
        eventually_true("the simulator is ready", || {
            get(simulator.address(), "/health").is_ok_and(|reply| reply.status == 200)
        });
        simulator
    }

    /// Starts one and does not wait for anything.
    pub(crate) fn launch(args: &[&str]) -> Self {
        let port = free_port();
        let mut command = mortal(binary());
        command.args(["sim", "--listen", &format!("127.0.0.1:{port}")]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: spawn(command), port }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
