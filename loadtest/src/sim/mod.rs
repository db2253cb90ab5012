//! x
pub mod fault;
pub mod model;
pub mod profile;
pub mod words;
