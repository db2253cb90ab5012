//! A streamed reply on its way back: events are found in the bytes, counted, passed on, kept alive and bounded in
//! time, or folded into one reply.
