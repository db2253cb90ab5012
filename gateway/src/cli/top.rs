//! `llama-gateway top`: what runs and who waits, live in a terminal.
//!
//! Takes what `GET /v1/live/events` of the admin port tells; gives a screen that follows it, or one snapshot as text.

mod columns;
mod document;
mod events;
mod feed;
mod keys;
mod screen;
mod target;
mod terminal;
#[cfg(test)]
mod tests;
mod text;

use std::io::{self, IsTerminal, stdin, stdout};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::pin::pin;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::{DataDirectory, say};
use crate::admin::live::snapshot::Snapshot;
use crate::server;
use feed::{Feed, Known};
use keys::Key;
use screen::{Size, View};
use terminal::Terminal;
use text::Line;

/// Which gateway, and how it is shown.
#[derive(Args, Clone, Default)]
pub(super) struct TopArguments {
    /// URL of the admin port, such as http://127.0.0.1:9090; without it, that of the gateway on the data directory
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// File with the admin key; without it, `admin.key_file` of the configuration
    #[arg(long, value_name = "F")]
    key_file: Option<PathBuf>,
    /// Print how it is now and end; also without a terminal
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    data: DataDirectory,
}

/// Shows the gateway until a key or a signal ends it.
///
/// # Errors
/// When the gateway cannot be asked, or refuses to tell.
pub(super) fn run(arguments: TopArguments) -> anyhow::Result<()> {
    let once = arguments.once || !stdin().is_terminal() || !stdout().is_terminal();
    let feed = Feed::new(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async { if once { print(&feed).await } else { watch(&feed).await } })
}

async fn print(feed: &Feed) -> anyhow::Result<()> {
    let snapshot = feed.once().await?;
    let width = if stdout().is_terminal() { terminal::size_of(stdout()).columns } else { usize::MAX };
    say(&plain(&snapshot, width))
}

fn plain(snapshot: &Snapshot, width: usize) -> String {
    let head = document::head(snapshot, width);
    let lines = head.into_iter().chain([Line::default()]).chain(document::body(snapshot, width).lines);
    let lines: Vec<_> = lines.map(|line| line.to_string().trim_end().to_owned()).collect();
    lines.join("\n")
}

async fn watch(feed: &Feed) -> anyhow::Result<()> {
    // What is wrong from the beginning is told before the screen is taken.
    let mut stream = feed.open().await?;
    let snapshot = stream.next().await?;
    let (sender, mut known) = watch::channel(Known { snapshot, lost: None });
    let mut feed = pin!(feed.run(stream, &sender));
    let mut signals = Signals::listen().context("signals cannot be listened to")?;
    let fds = (stdin().as_fd().try_clone_to_owned()?, stdout().as_fd().try_clone_to_owned()?);
    let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut terminal = Terminal::enter(fds.0, fds.1, has_colours).context("the terminal cannot be used")?;
    let mut top = Top { seen: known.borrow_and_update().clone(), view: View::default() };
    loop {
        top.show(&mut terminal).context("the terminal cannot be written")?;
        tokio::select! {
            error = &mut feed => return Err(error),
            changed = known.changed() => {
                changed?;
                top.follow(&known.borrow_and_update());
            }
            key = terminal.key() => match key {
                Some(key) if top.press(key, terminal.size(), &known.borrow()).is_continue() => {}
                _ => return Ok(()),
            },
            signal = signals.next() => if signal.is_break() { return Ok(()) },
        }
    }
}

/// What is shown, and how.
struct Top {
    seen: Known,
    view: View,
}

impl Top {
    fn show(&self, terminal: &mut Terminal) -> io::Result<()> {
        let Known { snapshot, lost } = &self.seen;
        let size = terminal.size();
        terminal.show(&screen::screen(snapshot, &self.view, lost.as_deref(), size), size)
    }

    fn follow(&mut self, known: &Known) {
        if self.view.is_paused {
            self.seen.lost.clone_from(&known.lost);
        } else {
            self.seen = known.clone();
        }
    }

    /// Does what a key asks for; breaks when that is to quit.
    fn press(&mut self, key: Key, size: Size, known: &Known) -> ControlFlow<()> {
        match key {
            Key::Quit => return ControlFlow::Break(()),
            _ if self.view.shows_help => self.view.shows_help = false,
            Key::Escape => return ControlFlow::Break(()),
            Key::Help => self.view.shows_help = true,
            Key::Pause => {
                self.view.is_paused = !self.view.is_paused;
                self.follow(known);
            }
            Key::Scroll(way) => {
                let Known { snapshot, lost } = &self.seen;
                self.view.offset = screen::scroll(snapshot, &self.view, lost.as_deref(), way, size);
            }
            Key::Other => {}
        }
        ControlFlow::Continue(())
    }
}

/// The signals that mean something to a program on a terminal.
struct Signals {
    resize: Signal,
    hangup: Signal,
    end: server::signals::Signals,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let (resize, hangup) = (signal(SignalKind::window_change())?, signal(SignalKind::hangup())?);
        Ok(Self { resize, hangup, end: server::signals::Signals::listen()? })
    }

    /// Waits for one; breaks when it asks for the end.
    async fn next(&mut self) -> ControlFlow<()> {
        tokio::select! {
            _ = self.resize.recv() => ControlFlow::Continue(()),
            _ = self.hangup.recv() => ControlFlow::Break(()),
            () = self.end.next() => ControlFlow::Break(()),
        }
    }
}
