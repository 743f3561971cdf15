//! The contract, promise by promise, over real sockets: a gateway in this process, a vendor that answers as each
//! test says, and callers. A test waits for conditions, never for time.

mod bodies;
mod bursts;
mod deadlines;
mod drain;
mod errors;
mod exchange;
mod half_open;
mod health;
mod leavers;
mod limits;
mod metrics;
mod query;
mod secrets;
mod sharing;
mod sums;
mod support;
mod tls_upstream;
mod tokens;
mod turns;
mod watch;
mod watch_ends;
mod watch_faults;
