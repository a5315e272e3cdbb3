//! Postgres: the claims, the desired state, the credentials, and the rows that the app reads.
//!
//! These are adapters: the worker decides what to write, and when. Each function is one statement or one transaction on a
//! connection that the caller acquires from [`connect::Database`]. A caller who stops waiting loses that connection and
//! nothing else.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `connect`, `pooler`, `schema`, `probe` | connections and their settings; whether a database can be used |
//! | `claims`, `fleet`, `listen` | advisory locks and epochs; the members of the fleet and hand-overs; notifications |
//! | `commands`, `placeholders`, `sessions`, `overview` | the desired state; what owners read of it; what operators read |
//! | `cache`, `deals`, `history` | rows, deals, and up to when all deals are stored; each write carries its fence |
//! | `credentials`, `token_refresh` | stored tokens; who may send a refresh token |
//! | `numeric`, `row_json`, `text` | values in the form in which Postgres stores them |
//!
//! Invariants: a row is written only under the epoch of its slot, and the statement that writes checks it;
//! no error or log of this module shows a URL, a token or a user.

pub mod cache;
pub mod claims;
pub mod commands;
pub mod connect;
pub mod credentials;
pub mod deals;
pub mod error;
pub mod fleet;
mod from_row;
pub mod history;
pub mod listen;
pub mod numeric;
pub mod overview;
pub mod placeholders;
pub mod pooler;
pub mod probe;
pub mod row_json;
pub mod schema;
pub mod sessions;
mod text;
pub mod token_refresh;

pub use error::PgError;
