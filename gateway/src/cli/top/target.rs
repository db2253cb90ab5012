//! Which gateway is watched, and with which key.
//!
//! Said on the command line; else by the gateway that runs on the data directory, which has announced itself there.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use reqwest::Url;

use super::TopArguments;
use crate::cli::configuration;
use crate::serve::Announced;

/// Bytes of a key at most; what is longer is none.
const MOST_KEY_BYTES: usize = 4096;

/// Where to ask, and the key to show.
pub(super) struct Target {
    /// Without a slash at the end.
    pub(super) url: String,
    pub(super) key: String,
    pub(super) key_file: PathBuf,
}

/// Looks it up. A gateway that was started anew may have other addresses, and a Secret other contents.
///
/// # Errors
/// It is said nowhere, or there is no key.
pub(super) fn find(arguments: &TopArguments) -> anyhow::Result<Target> {
    let config = configuration(&arguments.data)?;
    // The key of the gateway that runs here is not for another one.
    let announced = if arguments.admin.is_some() { None } else { Announced::read(&config.server.data_dir)? };
    let listens = announced.as_ref().map_or(config.server.admin_listen, |announced| announced.admin_listen);
    let url = match &arguments.admin {
        Some(url) => check(url)?,
        None => format!("http://{}", reachable(listens)),
    };
    let named =
        [&arguments.key_file, &Some(config.admin.key_file), &announced.map(|announced| announced.admin_key_file)];
    let key_file = named.into_iter().flatten().find(|file| !file.as_os_str().is_empty());
    let key_file = key_file.cloned().context(
        "the admin key is not known\n\
         hint: name the file that holds it: --key-file, or `admin.key_file` in the configuration of the gateway (without \
         that its admin API is off)",
    )?;
    Ok(Target { url, key: read_key(&key_file)?, key_file })
}

fn check(url: &str) -> anyhow::Result<String> {
    match Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") => Ok(url.trim_end_matches('/').to_owned()),
        _ => bail!("`{url}` is not the URL of an admin port\nhint: it is one such as http://127.0.0.1:9090"),
    }
}

/// Where a listener on this machine is called.
fn reachable(mut listens: std::net::SocketAddr) -> std::net::SocketAddr {
    if listens.ip().is_unspecified() {
        let loopback = if listens.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        listens.set_ip(loopback);
    }
    listens
}

fn read_key(file: &Path) -> anyhow::Result<String> {
    let named = file.display();
    let text = std::fs::read(file).map_err(|error| {
        anyhow!("the admin key cannot be read from {named}: {error}\nhint: --key-file names another file")
    })?;
    let key = text.trim_ascii();
    if key.is_empty() || key.len() > MOST_KEY_BYTES || !key.iter().all(u8::is_ascii_graphic) {
        bail!("{named} does not hold an admin key\nhint: it is a line of graphic ASCII characters (docs/keys.md)");
    }
    Ok(String::from_utf8_lossy(key).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_called_on_this_machine() {
        for (listens, called) in
            [("0.0.0.0:9090", "127.0.0.1:9090"), ("[::]:9090", "[::1]:9090"), ("10.0.0.8:9090", "10.0.0.8:9090")]
        {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), called);
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        assert_eq!(check("http://127.0.0.1:9090/").unwrap(), "http://127.0.0.1:9090");
        assert_eq!(check("https://gateway.example/admin").unwrap(), "https://gateway.example/admin");
        for wrong in ["", "127.0.0.1:9090", "localhost:9090", "ftp://x", "http://", "file:///etc/passwd"] {
            assert!(check(wrong).unwrap_err().to_string().contains("hint: "), "{wrong}");
        }
    }
}
