//! The parts that run as processes of their own. Each says `listening ADDRESS` or `ready` in a line on standard
//! output once it is, and ends on SIGTERM.

pub(crate) mod bare;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod tonic_server;
pub(crate) mod vendor;
pub(crate) mod watch;

use std::io::{self, Write as _};
use std::str::FromStr;

use clap::{Arg, ArgMatches};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use crate::fault::Fault;

/// Where a role that serves listens.
pub(crate) fn listen_argument() -> Arg {
    Arg::new("listen").long("listen").value_name("HOST:PORT").default_value("127.0.0.1:0")
}

/// An option with a value.
pub(crate) fn option(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).default_value(default).help(help)
}

/// An option's value, read.
pub(crate) fn value<T: FromStr>(matches: &ArgMatches, name: &str) -> Result<T, Fault> {
    let text = text(matches, name);
    text.parse().map_err(|_| Fault::new(format!("--{name} can't be {text:?}")))
}

/// An option's text; the options that are asked for have defaults.
pub(crate) fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map(String::as_str).unwrap_or_default()
}

/// Listens where the option says, and tells.
pub(crate) async fn listen(matches: &ArgMatches) -> Result<TcpListener, Fault> {
    let listener = TcpListener::bind(text(matches, "listen")).await.map_err(Fault::of("can't listen"))?;
    let address = listener.local_addr().map_err(Fault::of("can't listen"))?;
    say(&format!("listening {address}"))?;
    Ok(listener)
}

/// A line for whoever started this process.
pub(crate) fn say(line: &str) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Fault::of("standard output"))
}

/// A runtime of one thread: for the parts that shall take as little as they can from what is measured.
pub(crate) fn one_thread() -> Result<Runtime, Fault> {
    Builder::new_current_thread().enable_all().build().map_err(Fault::of("no runtime"))
}

/// The runtime that a server has by default.
pub(crate) fn many_threads() -> Result<Runtime, Fault> {
    Builder::new_multi_thread().enable_all().build().map_err(Fault::of("no runtime"))
}

/// Each connection is a file, and 10,000 calls have many.
pub(crate) fn raise_open_files() -> Result<(), Fault> {
    rlimit::increase_nofile_limit(u64::MAX).map(|_| ()).map_err(Fault::of("the limit of open files"))
}
