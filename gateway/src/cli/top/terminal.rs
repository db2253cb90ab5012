//! The terminal: its modes, its size, its keys, and lines written to it.
//!
//! Whatever ends the program, the terminal becomes as it was: the modes are restored when [`Terminal`] is dropped, and
//! before the message of a panic is written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

use super::keys::{self, Key};
use super::screen::Size;
use super::text::{Line, Style};

/// What follows an escape later than that was not sent by the same key. The bytes of one key can arrive one by one over
/// a slow connection.
const ESCAPE_PATIENCE: Duration = Duration::from_millis(300);
/// Of terminals that do not know their size.
const USUAL_SIZE: Size = Size { columns: 80, rows: 24 };

/// The second screen, without cursor and without line wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";

/// A terminal that shows a screen of ours.
pub(super) struct Terminal {
    keys: mpsc::Receiver<Vec<u8>>,
    output: File,
    modes: Arc<Modes>,
    /// What was read of keys that are not complete.
    bytes: Vec<u8>,
    has_colours: bool,
}

/// How the terminal was before.
struct Modes {
    saved: Termios,
    input: OwnedFd,
    output: OwnedFd,
    is_restored: AtomicBool,
}

impl Terminal {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When one of the two is no terminal.
    pub(super) fn enter(input: OwnedFd, output: OwnedFd, has_colours: bool) -> io::Result<Self> {
        let saved = tcgetattr(&input)?;
        let mut raw = saved.clone();
        raw.make_raw();
        let keys = read_on(input.try_clone()?)?;
        let written = output.try_clone()?;
        let modes = Arc::new(Modes { saved, input, output: written, is_restored: AtomicBool::new(false) });
        modes.clone().restore_on_panic();
        let terminal = Self { keys, output: File::from(output), modes, bytes: Vec::new(), has_colours };
        tcsetattr(&terminal.modes.input, OptionalActions::Flush, &raw)?;
        (&terminal.output).write_all(ENTER.as_bytes())?;
        Ok(terminal)
    }

    pub(super) fn size(&self) -> Size {
        size_of(&self.output)
    }

    /// Shows these lines, one a row.
    pub(super) fn show(&mut self, lines: &[Line], size: Size) -> io::Result<()> {
        self.output.write_all(painted(lines, size, self.has_colours).as_bytes())
    }

    /// The next key; none: there will be no more, the terminal is gone.
    pub(super) async fn key(&mut self) -> Option<Key> {
        loop {
            if let Some(key) = keys::take(&mut self.bytes) {
                return Some(key);
            }
            let more = self.keys.recv();
            let more = if self.bytes.is_empty() {
                more.await
            } else if let Ok(more) = tokio::time::timeout(ESCAPE_PATIENCE, more).await {
                more
            } else {
                self.bytes.clear();
                return Some(Key::Escape);
            };
            self.bytes.extend(more?);
        }
    }
}

/// What makes a terminal show these lines.
pub(super) fn painted(lines: &[Line], size: Size, has_colours: bool) -> String {
    // Terminals that know it show all of it at once.
    let mut text = "\x1b[?2026h".to_owned();
    for (row, line) in (1..).zip(lines) {
        text.push_str(&format!("\x1b[{row};1H\x1b[0m"));
        for span in &line.0 {
            text.push_str(code(span.style, has_colours));
            text.push_str(span.text());
            text.push_str("\x1b[0m");
        }
        // Not by erasing to the end of the line, which takes the last character of a full one in some terminals.
        text.extend(std::iter::repeat_n(' ', size.columns.saturating_sub(line.width())));
    }
    text.push_str("\x1b[?2026l");
    text
}

fn code(style: Style, has_colours: bool) -> &'static str {
    match style {
        Style::Plain => "",
        Style::Bold => "\x1b[1m",
        Style::Underlined => "\x1b[4m",
        Style::Bar => "\x1b[7m",
        Style::Good if has_colours => "\x1b[32m",
        Style::Warning if has_colours => "\x1b[33m",
        Style::Bad if has_colours => "\x1b[1;31m",
        Style::Good => "",
        Style::Warning | Style::Bad => "\x1b[1m",
    }
}

/// Gives what is typed, until the terminal is gone. A thread reads it, which ends with the process: what is read cannot be
/// waited for otherwise without O_NONBLOCK, which would be that of the shell as well, and stay.
fn read_on(input: OwnedFd) -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(1);
    let mut input = File::from(input);
    let read = move || {
        let mut some = [0; 256];
        // An error is what a terminal that is gone gives.
        while let Ok(length @ 1..) = input.read(&mut some) {
            let bytes = some.get(..length).unwrap_or_default().to_vec();
            if sender.blocking_send(bytes).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(receiver)
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.modes.restore();
    }
}

impl Modes {
    fn restore_on_panic(self: Arc<Self>) {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            self.restore();
            before(panic);
        }));
    }

    /// Once: what came later would undo what others have set since.
    fn restore(&self) {
        if self.is_restored.swap(true, Ordering::SeqCst) {
            return;
        }
        // If it fails, the terminal is gone, and there is nobody to tell.
        rustix::io::write(&self.output, LEAVE.as_bytes()).ok();
        tcsetattr(&self.input, OptionalActions::Flush, &self.saved).ok();
    }
}

/// The size of a terminal.
pub(super) fn size_of(terminal: impl AsFd) -> Size {
    let size = tcgetwinsize(terminal).map(|size| Size { columns: size.ws_col.into(), rows: size.ws_row.into() });
    size.ok().filter(|size| size.columns > 0 && size.rows > 0).unwrap_or(USUAL_SIZE)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
    use std::sync::Mutex;

    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// Both ends of a terminal: that of the emulator, and that of programs.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let ours = openpt(flags).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let theirs = ioctl_tiocgptpeer(&ours, flags).unwrap();
        (ours, theirs)
    }

    fn is_raw(terminal: &OwnedFd) -> bool {
        !tcgetattr(terminal).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    #[test]
    fn a_panic_restores_the_terminal_before_its_message_is_told() {
        let (ours, theirs) = terminal();
        let entered = || Terminal::enter(theirs.try_clone().unwrap(), theirs.try_clone().unwrap(), true).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (copy, seen) = (theirs.try_clone().unwrap(), told.clone());
        set_hook(Box::new(move |_| seen.lock().unwrap().push(is_raw(&copy))));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _terminal = entered();
            assert!(!is_raw(&theirs), "a panic on purpose");
        }));
        assert!(panicked.is_err() && !is_raw(&theirs));
        assert_eq!(*told.lock().unwrap(), [false]);
        let mut written = [0; 256];
        let length = rustix::io::read(&ours, &mut written).unwrap();
        assert_eq!(String::from_utf8_lossy(&written[..length]), format!("{ENTER}{LEAVE}"));
    }

    #[test]
    fn what_is_no_terminal_is_not_taken() {
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(Terminal::enter(file(), file(), true).is_err());
        assert_eq!(size_of(file()), USUAL_SIZE);
    }

    #[tokio::test]
    async fn an_escape_alone_is_a_key_and_the_terminals_end_ends_the_keys() {
        let (ours, theirs) = terminal();
        let mut terminal = Terminal::enter(theirs.try_clone().unwrap(), theirs, true).unwrap();
        rustix::io::write(&ours, b"q\x1b").unwrap();
        assert_eq!(terminal.key().await, Some(Key::Quit));
        assert_eq!(terminal.key().await, Some(Key::Escape));
        drop(ours);
        assert_eq!(terminal.key().await, None);
    }
}
