//! What an open stream costs a proxy in memory: its own before and while many are open.

use std::time::Duration;

use anyhow::{Context, ensure};
use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::proxies::Proxy;
use crate::cancel;
use crate::client::{Client, Message};
use crate::process;
use crate::target::Server;

/// Until all streams are open, or wait for a slot: connections are made, and heads read, in far less.
const SETTLING: Duration = Duration::from_secs(2);
/// More than a stream generates meanwhile.
const OUTPUT_TOKENS: u32 = 4096;
/// Until llama-server has noticed that all have left.
const PATIENCE: Duration = Duration::from_secs(120);
/// With fewer open streams at the end than this part of them, too little was measured.
const ENOUGH: f64 = 0.5;

/// KiB that each of `count` streams adds to the memory of a proxy which has served one request before. Those for which
/// llama-server has no slot wait, at nginx in llama-server and at the gateway in its queue: they are open connections
/// with a request as well.
///
/// # Errors
/// Streams are refused, or end too soon.
pub(super) async fn kib_each(proxy: &mut Proxy, upstream: &Server, model: &str, count: u32) -> anyhow::Result<f64> {
    let before = process::resident_kib(&proxy.pids()?)?;
    let mut streams = JoinSet::new();
    for number in 0..count {
        let prompt = format!("Stream {number}: count from one to ten thousand.");
        let message = proxy.server.long_stream(model, &prompt, OUTPUT_TOKENS)?;
        streams.spawn(read(proxy.server.client.clone(), message));
    }
    sleep(SETTLING).await;
    let mut over = 0;
    while let Some(ended) = streams.try_join_next() {
        ended.context("a stream's task")?.context("a stream")?;
        over += 1;
    }
    let open = f64::from(count - over);
    ensure!(open >= f64::from(count) * ENOUGH, "{over} of {count} streams were over after {SETTLING:?}");
    let while_open = process::resident_kib(&proxy.pids()?)?;
    streams.shutdown().await;
    cancel::until_idle(std::slice::from_ref(upstream), PATIENCE).await?;
    Ok((while_open as f64 - before as f64) / open)
}

/// Reads a stream to its end.
async fn read(client: Client, message: Message) -> anyhow::Result<()> {
    let mut reply = client.send(&message).await?;
    ensure!(reply.status == StatusCode::OK, "it was answered {}", reply.status);
    while reply.chunk().await?.is_some() {}
    Ok(())
}
