//! The server as clients and operators see it.

mod clients;
mod common;
mod lifecycle;
mod load;
mod protocol;
mod strangers;
mod traces;
