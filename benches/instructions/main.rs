//! Counts instructions under valgrind's callgrind: what each piece of work takes, whatever else the machine does. What
//! is set up for it, and letting go of what it made, is not counted. `.ci/instructions.py` runs this and holds the
//! counts against those in `benches/instructions.baseline`.
//!
//! The benchmarks only call: a closure or an async block in one would bear a name that switches the counting off.

#![expect(missing_docs, reason = "what the macros make of the benchmarks")]

mod work;
mod world;

use federation_gateway::grpc::{CallBody, Message};
use federation_gateway::task::{Form, Observation, TaskId};
use federation_gateway::tasks::Answered;
use federation_gateway::vendor::wire;
use gungraun::{Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main};

use crate::work::{Requests, Watchers};
use crate::world::World;

#[library_benchmark]
#[bench::of_100_users(work::failed_users())]
fn parse(body: Vec<u8>) -> (wire::Answer, Vec<u8>) {
    work::parse(body)
}

#[library_benchmark]
#[bench::of_100_users(work::observed())]
fn convert(observed: (TaskId, Observation)) -> (Form, Observation) {
    work::convert(observed)
}

#[library_benchmark]
#[bench::a_hundred(work::remembered())]
fn hit(remembered: (World, TaskId)) -> (World, Vec<Answered>) {
    work::hit(remembered)
}

#[library_benchmark]
#[bench::a_hundred(work::asked())]
fn call(asked: (World, Requests)) -> (World, Vec<(Message, CallBody)>) {
    work::call(asked)
}

#[library_benchmark]
#[bench::a_hundred(work::remembered())]
fn joined(remembered: (World, TaskId)) -> (World, Vec<Answered>) {
    work::joined(remembered)
}

#[library_benchmark]
#[bench::to_a_hundred(work::watched())]
fn fan_out(watched: (World, Watchers)) -> (World, Vec<(Message, CallBody)>) {
    work::fan_out(watched)
}

library_benchmark_group!(name = counted, benchmarks = [parse, convert, hit, call, joined, fan_out]);

main!(
    // Instructions alone: a simulated cache is no machine's.
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = counted
);
