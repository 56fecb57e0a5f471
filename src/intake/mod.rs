//! How jobs come in. Doors differ, the room is one: a body is parsed and checked by [`message`], then accepted by the ledger once.

pub mod http;
pub mod message;
mod plaintext;
pub mod schema;
pub mod sqs;
mod trace;
