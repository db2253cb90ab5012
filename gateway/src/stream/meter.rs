//! Counts the tokens of a streamed reply and takes out what the client did not ask for.
//!
//! llama-server is always asked for usage and for timings in every event. Takes its bytes as they come; gives the
//! bytes that it would have sent for the client's own request, and the count so far. What cannot be understood is
//! passed on as it is and counted. Nothing is held back for longer than one event.

use std::borrow::Cow;

use bytes::BytesMut;
use memchr::{memmem, memrchr};

use super::cut::{Names, Shown};
use super::sse::{Event, Piece, Splitter};
use super::tally::{Tally, index_of};
use super::timings::{self, Found};
use super::usage;
use crate::ledger::Count;
use crate::queue::Speed;
use crate::surface::{Ask, Surface};

/// Bytes of one event at most: what one stream may make the gateway keep. The largest events are
/// `response.completed`, which repeats the whole reply (a few bytes a token, so a hundred thousand tokens fit), and
/// chunks with log probabilities (some kilobytes).
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// What one push showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Events that show llama-server generating (tokens or parts of them, and events that could not be read): they
    /// reset the silence clock.
    pub outputs: u32,
    /// The stream is over for the client: the final usage, `[DONE]`, `response.completed` or `message_stop` is in
    /// it. The ledger must be closed before these bytes go out.
    pub terminal: bool,
    /// llama-server's message, where it sent an error event instead of an end. That event is not in the output.
    pub failed: Option<String>,
}

/// Counts and rewrites one stream.
#[derive(Debug)]
pub struct Meter {
    splitter: Splitter,
    reader: Reader,
}

impl Meter {
    /// A meter for the reply to this request.
    pub fn new(ask: &Ask) -> Self {
        let reader = Reader {
            surface: ask.surface,
            include_usage: ask.include_usage,
            timings_per_token: ask.timings_per_token,
            tally: Tally::new(ask.prompts, ask.choices),
            last: 0,
            finish_chunk: Vec::new(),
            usage_chunk: Vec::new(),
            usage_given: false,
            unreadable: 0,
            timings: Vec::new(),
            finish_reason: None,
            shown: None,
        };
        Self { splitter: Splitter::new(MAX_EVENT_BYTES), reader }
    }

    /// llama-server has counted the prompt before the request was let in: that is what counts where the reply gives
    /// output and does not tell its prompt. A Messages stream whose first token is a part of a character has lost the
    /// event that would.
    pub fn admitted(&mut self, prompt: u64) {
        self.reader.tally.admitted(prompt);
    }

    /// Remembers what is needed to [`cut`](Self::cut) the stream.
    pub fn watch(&mut self) {
        self.reader.shown = Shown::new(self.reader.surface);
    }

    /// Ends the stream here, as if the output cap had been reached: appends to `out` what the client gets for the
    /// events of such an end, and gives the events as llama-server would have sent them. What llama-server goes on to
    /// send is not to be pushed any more, and [`count`](Self::count) is that of the events.
    ///
    /// `None`: the stream cannot be ended here, because it was not watched, has shown nothing yet, or is within an
    /// event of more than [`MAX_EVENT_BYTES`].
    pub fn cut(&mut self, names: &Names<'_>, out: &mut BytesMut) -> Option<String> {
        let Reader { shown, tally, timings, .. } = &self.reader;
        let ending = shown.as_ref()?.ending(tally, str::from_utf8(timings).unwrap_or_default(), names)?;
        if !self.splitter.discard() {
            return None;
        }
        self.reader.shown = None;
        self.push(ending.as_bytes(), out);
        Some(ending)
    }

    /// Why the output ended, of several choices the last one to do so; `None` while nobody knows.
    pub fn finish_reason(&self) -> Option<&'static str> {
        self.reader.finish_reason
    }

    /// How fast llama-server worked, by the last timings that it gave; `None` if it gave none.
    pub fn speed(&self) -> Option<Speed> {
        timings::speed(&self.reader.timings)
    }

    /// Takes one read from llama-server and appends to `out` what the client gets.
    pub fn push(&mut self, input: &[u8], out: &mut BytesMut) -> Seen {
        let mut seen = Seen::default();
        let Self { splitter, reader } = self;
        splitter.push(input, |piece| reader.piece(piece, out, &mut seen));
        seen
    }

    /// llama-server ended its reply: appends what is left.
    ///
    /// Not to be called when the connection broke: half an event is of no use, and would spoil the error event that
    /// is to follow it.
    pub fn finish(&mut self, out: &mut BytesMut) -> Seen {
        let mut seen = Seen::default();
        let Self { splitter, reader } = self;
        splitter.finish(|piece| reader.piece(piece, out, &mut seen));
        reader.release(out);
        seen
    }

    /// The tokens so far.
    pub fn count(&self) -> Count {
        self.reader.tally.count()
    }

    /// Events that were passed on without being understood.
    pub fn unreadable(&self) -> u64 {
        self.reader.unreadable.saturating_add(self.splitter.oversized())
    }
}

/// The part of the meter that looks at whole events.
#[derive(Debug)]
struct Reader {
    surface: Surface,
    include_usage: bool,
    timings_per_token: bool,
    tally: Tally,
    /// The sequence that the last chunk belonged to.
    last: usize,
    /// A chat chunk with a finish reason that waits for the timings in the usage chunk behind it; or empty.
    finish_chunk: Vec<u8>,
    /// A chat usage chunk that waits for those of the other choices; or empty.
    usage_chunk: Vec<u8>,
    /// The client was given its usage chunk.
    usage_given: bool,
    unreadable: u64,
    /// The last timings, with their key and the comma before it; or empty. Copied, and not read before the end.
    timings: Vec<u8>,
    finish_reason: Option<&'static str>,
    /// What the stream has shown, if it may be cut.
    shown: Option<Shown>,
}

/// One event of a surface, borrowed apart.
struct Part<'a> {
    raw: &'a [u8],
    data: &'a [u8],
    name: Option<&'a [u8]>,
}

impl Reader {
    fn piece(&mut self, piece: Piece<'_>, out: &mut BytesMut, seen: &mut Seen) {
        match piece {
            Piece::Event(event) => self.event(&event, out, seen),
            Piece::Oversized(bytes) => {
                self.release(out);
                seen.outputs += 1;
                out.extend_from_slice(bytes);
            }
        }
    }

    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut, seen: &mut Seen) {
        let data = match event.data {
            Some(Cow::Borrowed(data)) => data,
            // llama-server writes one data line; several cannot be cut where they stand.
            Some(Cow::Owned(_)) => return self.unread(event.raw, out, seen),
            None => return self.pass(event.raw, out),
        };
        if data == b"null" {
            // What llama-server writes where the second prompt of a request gets its slot.
            return self.pass(event.raw, out);
        }
        if let Some(message) = usage::of_failure(event.name, data) {
            self.release(out);
            seen.failed = Some(message);
            return;
        }
        if let Some(shown) = &mut self.shown {
            shown.event(event.name, data);
        }
        let part = Part { raw: event.raw, data, name: event.name };
        match self.surface {
            Surface::Chat | Surface::Completions => self.chunk(&part, out, seen),
            Surface::Responses => self.response(&part, out, seen),
            Surface::Messages => self.message(&part, out, seen),
            _ => self.pass(part.raw, out),
        }
    }

    /// A chunk of a chat or text completion.
    fn chunk(&mut self, part: &Part<'_>, out: &mut BytesMut, seen: &mut Seen) {
        if part.data == b"[DONE]" {
            self.release(out);
            self.give_merged_usage(out);
            seen.terminal = true;
            return self.pass(part.raw, out);
        }
        let found = self.find_timings(part.data);
        let (body, _) = found.cut_from(part.data);
        if memmem::find(body, b"\"usage\":{").is_some() {
            return self.chunk_with_usage(part, &found, out, seen);
        }
        let index = if self.tally.single() { Some(0) } else { index_of(body) };
        let Some(index) = index.filter(|_| memmem::find(body, b"\"choices\":[{").is_some()) else {
            return self.unread(part.raw, out, seen);
        };
        self.last = index;
        if !self.count_timings(index, &found) {
            return self.unread(part.raw, out, seen);
        }
        if memmem::find(body, b"\"delta\":{\"reasoning_content\":\"").is_some() {
            self.tally.thought(index);
        }
        let finishes = memmem::find(body, b"\"finish_reason\":\"").is_some();
        if finishes {
            self.finish_reason = usage::finish_reason(body);
            if self.surface == Surface::Chat && !self.include_usage && found == Found::Absent {
                self.release(out);
                self.finish_chunk.extend_from_slice(part.raw);
                return;
            }
            return self.pass(part.raw, out);
        }
        let opens = memmem::find(body, b"\"delta\":{\"role\":").is_some();
        if !opens && !found.is_progress(part.data) {
            self.tally.event();
            seen.outputs += 1;
        }
        self.pass_without_timings(part, &found, out);
    }

    /// A chunk with the final usage of one sequence: for chat one of its own, for completions the last with text.
    fn chunk_with_usage(&mut self, part: &Part<'_>, found: &Found, out: &mut BytesMut, seen: &mut Seen) {
        let Some(read) = usage::of_chunk(part.data) else {
            return self.unread(part.raw, out, seen);
        };
        let alone = read.index.is_none();
        let index = read.index.unwrap_or_else(|| self.tally.awaiting_usage(self.last));
        if !self.tally.usage(index, read.usage) {
            return self.unread(part.raw, out, seen);
        }
        self.last = index;
        self.finish_reason = usage::finish_reason(part.data).or(self.finish_reason);
        seen.terminal |= self.tally.complete();
        if !alone {
            self.pass(part.raw, out);
        } else if !self.include_usage {
            self.give_finish_chunk(part.data, found, out);
        } else if self.tally.single() && !self.usage_given {
            self.usage_given = true;
            self.pass(part.raw, out);
        } else {
            self.usage_chunk.clear();
            self.usage_chunk.extend_from_slice(found.cut_from(part.data).0);
            if self.tally.complete() {
                self.give_merged_usage(out);
            }
        }
    }

    /// Gives the chat chunk with the finish reason. Where no usage is asked for, llama-server puts the timings there
    /// that it otherwise puts into the usage chunk, which is `usage_chunk`.
    fn give_finish_chunk(&mut self, usage_chunk: &[u8], found: &Found, out: &mut BytesMut) {
        let timings = match found {
            Found::At(range, _) => usage_chunk.get(range.clone()).unwrap_or_default(),
            Found::Absent | Found::Unclear => &[],
        };
        if let Some(end) = memrchr(b'}', &self.finish_chunk) {
            let (head, tail) = self.finish_chunk.split_at(end);
            out.extend_from_slice(head);
            out.extend_from_slice(timings);
            out.extend_from_slice(tail);
        }
        self.finish_chunk.clear();
    }

    /// Gives the one usage chunk of a chat with several choices. Without timings: there are several, of which none
    /// is that of the request.
    fn give_merged_usage(&mut self, out: &mut BytesMut) {
        if !self.usage_chunk.is_empty() && !self.usage_given {
            self.usage_given = true;
            usage::write_merged(&self.usage_chunk, &self.tally.count(), out);
        }
        self.usage_chunk.clear();
    }

    /// An event of the Responses API.
    fn response(&mut self, part: &Part<'_>, out: &mut BytesMut, seen: &mut Seen) {
        let Some(name) = part.name else {
            return self.unread(part.raw, out, seen);
        };
        if matches!(name, b"response.completed" | b"response.incomplete" | b"response.failed") {
            seen.terminal = true;
            self.finish_reason = match name {
                b"response.completed" => Some("stop"),
                b"response.incomplete" => Some("length"),
                _ => None,
            };
            self.find_timings(part.data);
            return match usage::of_response(part.data) {
                Some(usage) if self.tally.usage(0, usage) => self.pass(part.raw, out),
                _ => self.unread(part.raw, out, seen),
            };
        }
        let found = self.find_timings(part.data);
        if !name.starts_with(b"response.") || !self.count_timings(0, &found) {
            return self.unread(part.raw, out, seen);
        }
        if name == b"response.reasoning_text.delta" {
            self.tally.thought(0);
        }
        if name.ends_with(b".delta") {
            self.tally.event();
            seen.outputs += 1;
        }
        self.pass_without_timings(part, &found, out);
    }

    /// An event of the Anthropic Messages API. It has no timings: output is counted by events until the end.
    fn message(&mut self, part: &Part<'_>, out: &mut BytesMut, seen: &mut Seen) {
        let understood = match part.name {
            Some(b"content_block_delta") => {
                // The signature that closes a thinking block is no output.
                if memmem::find(part.data, b"\"type\":\"signature_delta\"").is_none() {
                    self.tally.event();
                    seen.outputs += 1;
                }
                true
            }
            Some(b"message_start") => {
                usage::of_message_start(part.data).is_some_and(|prompt| self.tally.prompt(0, prompt))
            }
            Some(b"message_delta") => {
                let output = usage::of_message_delta(part.data);
                self.finish_reason = usage::finish_reason(part.data);
                output.into_iter().for_each(|output| self.tally.output(0, output));
                seen.terminal |= output.is_some();
                output.is_some()
            }
            Some(b"message_stop") => {
                seen.terminal = true;
                true
            }
            Some(b"content_block_start" | b"content_block_stop" | b"ping") => true,
            _ => false,
        };
        if understood { self.pass(part.raw, out) } else { self.unread(part.raw, out, seen) }
    }

    /// Looks for timings and keeps the last ones.
    fn find_timings(&mut self, object: &[u8]) -> Found {
        let found = timings::find(object);
        if let Found::At(range, _) = &found {
            self.timings.clear();
            self.timings.extend_from_slice(object.get(range.clone()).unwrap_or_default());
        }
        found
    }

    /// `false`: there is something that looks like timings and cannot be used.
    fn count_timings(&mut self, index: usize, found: &Found) -> bool {
        match found {
            Found::Absent => true,
            Found::Unclear => false,
            Found::At(_, timings) => self.tally.timings(index, *timings),
        }
    }

    /// Passes an event on unchanged.
    fn pass(&mut self, raw: &[u8], out: &mut BytesMut) {
        self.release(out);
        out.extend_from_slice(raw);
    }

    /// Passes an event on that was not understood. It may well be output, so the silence clock is told.
    fn unread(&mut self, raw: &[u8], out: &mut BytesMut, seen: &mut Seen) {
        self.unreadable = self.unreadable.saturating_add(1);
        seen.outputs += 1;
        self.pass(raw, out);
    }

    /// Passes an event on as llama-server writes it where timings are not asked for.
    fn pass_without_timings(&mut self, part: &Part<'_>, found: &Found, out: &mut BytesMut) {
        if self.timings_per_token {
            return self.pass(part.raw, out);
        }
        self.release(out);
        let (head, tail) = found.cut_from(part.data);
        // `data` is a part of `raw`, so this is the length of what stands before it.
        let before = part.data.as_ptr().addr().saturating_sub(part.raw.as_ptr().addr());
        out.extend_from_slice(part.raw.get(..before).unwrap_or_default());
        out.extend_from_slice(head);
        out.extend_from_slice(tail);
        out.extend_from_slice(part.raw.get(before + part.data.len()..).unwrap_or_default());
    }

    /// Lets go of a chunk that waited for another one which did not come.
    fn release(&mut self, out: &mut BytesMut) {
        if !self.finish_chunk.is_empty() {
            out.extend_from_slice(&self.finish_chunk);
            self.finish_chunk.clear();
        }
    }
}
